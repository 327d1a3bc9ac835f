package pgnotify_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// The tests of a Listener that are about one session, not about ways to the server, run
// over plain TCP by themselves, and over TLS here: dsn, scripted and event go by the name.
func TestListenerOverTLS(t *testing.T) {
	t.Parallel()
	ours(t)
	for name, test := range map[string]func(*testing.T){
		"L6, L7, gap before the acknowledgement's end": TestGapStandsBeforeWhatComesWithTheAcknowledgement,
		"L7, no gap before the acknowledgement":        TestGapWaitsForTheAcknowledgement,
		"L10, a later session":                         TestSubscribeWaitsForTheAcknowledgement,
		"L11, given up":                                TestSubscribeThatWasGivenUp,
		"L12, during backoff":                          TestSubscribeDuringBackoff,
		"L13, dead sessions":                           TestListenerWithDeadSessionsIsNotHot,
		"L14, no server":                               TestListenerWithoutServer,
		"L17, overflow":                                TestListenerOverflow,
		"L17, nobody reads":                            TestConsumerThatNeverReads,
		"L20, closed by all":                           TestListenerCloses,
		"L21, beside a full queue":                     TestSubscribeBesideAFullQueue,
		"L22, last and next":                           TestLastLeavesAsAnotherComes,
	} {
		t.Run(name+"/tls", test)
	}
}

// overTLS reports whether a test is to reach its server over TLS.
func overTLS(t testing.TB) bool { return strings.Contains(t.Name()+"/", "/tls/") }

// scripted starts a server that plays scripts, after a TLS handshake if the test is over
// TLS, and returns it with its DSN.
func scripted(t testing.TB, scripts ...pgfake.Script) (*pgfake.Server, string) {
	t.Helper()
	if !overTLS(t) {
		s := pgfake.Start(t, scripts...)
		return s, s.DSN()
	}
	handshake := pgfake.Script{pgfake.StartTLS(fakeTLS(t, nil))}
	var secure []pgfake.Script
	for _, script := range scripts {
		if len(script) > 0 { // else it ends the connection at once
			script = slices.Concat(handshake, script)
		}
		secure = append(secure, script)
	}
	s := pgfake.Start(t, secure...)
	return s, s.DSN() + " sslmode=require"
}

// eachTaking runs a test with each way to take events, which event goes by: All, and
// the Go channel.
func eachTaking(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	for _, name := range []string{"All", "Events"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
}

// byChannel reports whether a test takes events from the Go channel: where it says so,
// and over TLS unless it says otherwise.
func byChannel(t testing.TB) bool {
	return strings.HasSuffix(t.Name(), "/Events") || overTLS(t) && !strings.HasSuffix(t.Name(), "/All")
}
