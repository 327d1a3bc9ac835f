package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A place is where in a session a frame comes.
type place int

const (
	atGreeting place = iota
	atStartup
	atIdle
	inAnswer
	inCopy
)

func (p place) String() string {
	return [...]string{"greeting", "startup", "idle", "answer", "COPY"}[p]
}

// broken are messages that end the session, each at the places given.
var broken = []struct {
	name string
	data frame
	at   []place
}{
	{"type 0", frame("\x00\x00\x00\x00\x00"), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"unknown type", newFrame('x', "body"), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"unknown type of a length above 2^31", header('?', 1<<31+7), []place{atGreeting, atIdle, inAnswer}},
	{"HTTP", frame("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), []place{atGreeting}},
	{"SSH", frame("SSH-2.0-OpenSSH_9.6\r\n"), []place{atGreeting}},
	{"SMTP", frame("220 mail.example ESMTP\r\n"), []place{atGreeting}},
	{"MySQL", frame("\x4a\x00\x00\x00\x0a8.0.36\x00\x01\x00\x00\x00saltsalt\x00"), []place{atGreeting}},
	{"MySQL like a notice", frame("N\x00\x00\x00\x0a8.0.36\x00\x01\x00\x00\x00saltsalt\x00"), []place{atGreeting}},
	{"MySQL like an error", frame("E\x00\x00\x00\x0a8.0.36\x00\x01\x00\x00\x00saltsalt\x00"), []place{atGreeting}},
	{"TLS", frame("\x15\x03\x01\x00\x02\x02\x46"), []place{atGreeting}},
	{"row first", row("1"), []place{atGreeting}},
	{"ready first", idle, []place{atGreeting}},
	{"notification first", note("a", "1"), []place{atGreeting}},
	{"error without fields", newFrame('E', "\x00"), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"error of one empty field", newFrame('E', "S\x00\x00"), []place{atGreeting, inAnswer}},
	{"error of length 0", header('E', 0), []place{atGreeting, atIdle, inAnswer}},
	{"error of length 7", newFrame('E', "M\x00\x00"), []place{atGreeting, inAnswer}},
	{"plain text later", frame("Ecould not fork new process for connection\n\x00"), []place{atStartup, atIdle, inAnswer, inCopy}},

	{"long error without end", newFrame('E', strings.Repeat("M", 40_000)), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"long error that ends at once", newFrame('E', strings.Repeat("\x00", 40_000)), []place{atGreeting, atIdle, inAnswer}},
	{"long notice without end", newFrame('N', strings.Repeat("M", 80_000)), []place{atGreeting, atIdle, inAnswer}},
	{"error without terminator", newFrame('E', "SERROR\x00Mmessage"), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"error without last terminator", newFrame('E', "SERROR\x00Mmessage\x00"), []place{atGreeting, atIdle, inAnswer, inCopy}},
	{"empty error", newFrame('E'), []place{atGreeting, atIdle, inAnswer, inCopy}},
	{"notice without terminator", newFrame('N', "SNOTICE\x00Mmessage"), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},
	{"empty notice", newFrame('N'), []place{atGreeting, atStartup, atIdle, inAnswer, inCopy}},

	{"empty notification", newFrame('A'), []place{atStartup, atIdle, inAnswer, inCopy}},
	{"notification of a short pid", newFrame('A', "\x00\x00\x00"), []place{atIdle, inAnswer}},
	{"notification of a pid only", newFrame('A', uint32s(1)), []place{atIdle, inAnswer}},
	{"notification without payload", newFrame('A', uint32s(1), "a\x00"), []place{atIdle, inAnswer, inCopy}},
	{"notification without terminator", newFrame('A', uint32s(1), "a\x00payload"), []place{atIdle, inAnswer}},
	{"notification with more", newFrame('A', uint32s(1), "a\x00payload\x00more"), []place{atIdle, inAnswer}},
	{"notification with more terminators", newFrame('A', uint32s(1), "a\x00payload\x00\x00"), []place{atIdle, inAnswer}},

	{"ready without status", newFrame('Z'), []place{atStartup, inAnswer, inCopy}},
	{"ready with a bad status", newFrame('Z', "X"), []place{atStartup, inAnswer, inCopy}},
	{"ready with two", newFrame('Z', "II"), []place{atStartup, inAnswer, inCopy}},
	{"ready out of place", idle, []place{atIdle}},

	{"key later", newFrame('K', uint32s(1), "1234"), []place{atIdle, inAnswer, inCopy}},
	{"key without secret", newFrame('K', uint32s(1)), []place{atStartup}},
	{"short key", newFrame('K', uint32s(1), "123"), []place{atStartup}},
	{"long key", newFrame('K', uint32s(1), strings.Repeat("k", 257)), []place{atStartup}},

	{"parameter without value", newFrame('S', "name\x00"), []place{atStartup, atIdle, inAnswer, inCopy}},
	{"parameter without terminator", newFrame('S', "name\x00value"), []place{atStartup, atIdle, inAnswer, inCopy}},
	{"parameter with more", newFrame('S', "name\x00value\x00more"), []place{atStartup, atIdle}},
	{"empty parameter", newFrame('S'), []place{atStartup, atIdle}},
	{"too many parameters", join(manyParams(100)...), []place{atStartup, atIdle, inAnswer, inCopy}},

	{"empty tag", newFrame('C'), []place{inAnswer, inCopy}},
	{"tag without terminator", newFrame('C', "SELECT 1"), []place{inAnswer, inCopy}},
	{"tag with two", newFrame('C', "SELECT 1\x00\x00"), []place{inAnswer, inCopy}},
	{"tag of another command", tag("SELECT 1"), []place{inCopy}},
	{"COPY without count", tag("COPY"), []place{inCopy}},
	{"COPY with an empty count", tag("COPY "), []place{inCopy}},
	{"COPY of no number", tag("COPY x"), []place{inCopy}},
	{"COPY of a huge number", tag("COPY 99999999999999999999"), []place{inCopy}},

	{"answer to nothing", join(rowDesc, row("1"), tag("SELECT 1"), idle), []place{atIdle}},
	{"tag of nothing", tag("SELECT 1"), []place{atIdle}},
	{"COPY of nothing", copyIn, []place{atIdle}},
}

func manyParams(n int) (list []frame) {
	for i := range n {
		list = append(list, param(fmt.Sprint("p", i), strings.Repeat("v", 1000)))
	}
	return list
}

// impossible are lengths that no message has.
func impossible() (list []frame) {
	for _, typ := range "ACDEGHIKNRSTVWZcdnstv123" {
		for _, length := range []uint32{0, 1, 2, 3, wire.MaxBulk + 1, 1<<31 - 1, 1 << 31, 1<<32 - 4, 1<<32 - 1} {
			list = append(list, header(byte(typ), length))
		}
	}
	for _, typ := range "ACGHIKRSWZcnsv123" {
		list = append(list, header(byte(typ), wire.MaxSmall), header(byte(typ), 8<<20))
	}
	return append(list, header('T', 5<<20), header('t', 5<<20))
}

// feed plays a session up to the given place, sends data there, and returns
// why the session was lost.
func feed(t *testing.T, at place, active bool, cut func(int, int) int, data []byte) error {
	t.Helper()
	answers := [][]byte{join(greeting()...), join(rowDesc, row("1"))}
	switch at {
	case atGreeting:
		answers = [][]byte{data}
	case atStartup:
		answers = [][]byte{append(join(authOK, param("a", "b")), data...)}
	case atIdle:
		answers[1] = append(join(rowDesc, tag("SELECT 0"), idle), data...)
	case inAnswer:
		answers[1] = append(answers[1], data...)
	case inCopy:
		answers[1] = append(join(copyIn), data...)
	}
	s := newScript(cut, answers...)
	s.hold = true // the error must not need the end
	c := wire.NewConn(s, nobody{})
	defer c.Close()
	timeout := time.AfterFunc(patience, func() { c.Abort(errors.New("timeout")) })
	defer timeout.Stop()
	buf := make([]byte, 4096)
	_, _ = c.Write(startupPacket)
	if at > atStartup {
		for c.Unread() {
			if _, err := c.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if active && !c.Activate() {
			t.Fatal("not active")
		}
		if at == inCopy {
			c.WantCopy()
		}
		_, _ = c.Write(query("SELECT"))
	}
	var got []byte
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			if small := len(data) < 1000; small && bytes.HasSuffix(got, data) && at != atIdle {
				t.Errorf("%v: lib/pq gets %q", at, data)
			}
			return err
		}
	}
}

// TestBrokenFrames is F1: what is not the protocol ends the session with an
// error that says so.
func TestBrokenFrames(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, at place, data []byte) {
		t.Helper()
		for name, cut := range map[string]func(int, int) int{"whole": whole, "bytewise": bytewise} {
			for _, active := range []bool{false, true} {
				err := feed(t, at, active, cut, data)
				var frame *wire.FrameError
				if !errors.As(err, &frame) && !wire.IsNotPostgres(err) {
					t.Errorf("%v, %s, active %v: %v", at, name, active, err)
				}
			}
		}
	}
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			for _, at := range b.at {
				check(t, at, b.data)
			}
		})
	}
	for _, data := range impossible() {
		t.Run(fmt.Sprintf("%c of length %x", data[0], []byte(data[1:])), func(t *testing.T) {
			t.Parallel()
			for _, at := range []place{atGreeting, atStartup, atIdle, inAnswer, inCopy} {
				if at == atGreeting && data[0] == 'E' && data[1] >= ' ' {
					continue // it may be text
				}
				check(t, at, data)
			}
		})
	}
}

// TestNotPostgres looks at what is said about a peer of another kind.
func TestNotPostgres(t *testing.T) {
	t.Parallel()
	err := feed(t, atGreeting, false, whole, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	if want := `not a PostgreSQL server: it answered "HTTP/1.1 400 Bad Request\r\n\r\n"`; err.Error() != want {
		t.Errorf("%v, want %v", err, want)
	}
}

func TestFrameErrorText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  *wire.FrameError
		want string
	}{
		{&wire.FrameError{Reason: "odd"}, "protocol error: odd"},
		{&wire.FrameError{Type: 'Z', Reason: "odd"}, `protocol error: message 'Z': odd`},
		{&wire.FrameError{Type: 'Z', Length: 9, Reason: "odd"}, `protocol error: message 'Z' of length 9: odd`},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// TestMemory gives the scanner messages that announce a lot, and those that
// bring it: no more than a bounded amount is allocated for them. It must not
// run beside other tests.
func TestMemory(t *testing.T) {
	megabyte := strings.Repeat("x", 1<<20)
	hugeRow := append(slices.Concat(rowDesc, header('D', 1<<30)), "\x00\x01"+uint32s(1<<30-10)...)
	for _, c := range []struct {
		name  string
		limit uint64
		open  frame  // announces 1 GiB
		more  string // comes ten times
	}{
		{"row announced", 100 << 10, hugeRow, ""},
		{"row", 40 << 20, hugeRow, megabyte},
		{"COPY data", 100 << 10, append(newFrame('H', "\x00\x00\x00"), header('d', 1<<30)...), megabyte},
		{"error", 300 << 10, header('E', 1<<30), megabyte},
		{"error of many fields", 300 << 10, header('E', 1<<30), strings.Repeat("x\x00", 1<<19)},
		{"notice", 4 << 20, header('N', 1<<30), megabyte},
		{"notice of many fields", 8 << 20, header('N', 1<<30), strings.Repeat("xx\x00", 1<<20/3)},
		{"notification announced", 200 << 10, header('A', wire.MaxSmall-1), strings.Repeat("x", 6000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := wire.NewStream(nobody{}, true)
			more := []byte(c.more)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := s.Discard(c.open)
			for i := 0; i < 10 && err == nil; i++ {
				err = s.Discard(more)
			}
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > c.limit {
				t.Errorf("%d bytes allocated, at most %d wanted", n, c.limit)
			}
		})
	}
}
