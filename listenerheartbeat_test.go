package pgnotify_test

import (
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// beat awaits a heartbeat, and answers it with a process, whether the server is a
// standby, how full its queue is, and the channels.
func beat(values ...string) pgfake.Step {
	const oidInt4, oidBool, oidFloat8, oidText = 23, 16, 701, 25
	return func(c *pgfake.Session) error {
		if err := pgfake.Await('Q')(c); err != nil {
			return err
		}
		return pgfake.Send(pgfake.ColumnsOf(oidInt4, oidBool, oidFloat8, oidText),
			pgfake.Row(values...), pgfake.Complete("SELECT 1"), pgfake.Ready('I'))(c)
	}
}

func mustPingListener(t testing.TB, l *pgnotify.Listener) pgnotify.Health {
	t.Helper()
	health, err := l.Ping(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return health
}

func noHeartbeat(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 }

// Ping tells what the server says of itself.
func TestHealthIsWhatTheServerSays(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(),
		beat("4711", "t", "0.25", "{a,b}"), beat("4711", "f", "0.5", "{}"), pgfake.Drain()})
	l, _ := listen(t, server.DSN(), noHeartbeat)
	if h := mustPingListener(t, l); !h.InRecovery || h.QueueUsage != 0.25 || h.Channels != 2 || h.PID != pgfake.PID {
		t.Errorf("%+v", h)
	}
	if h := mustPingListener(t, l); h.InRecovery || h.QueueUsage != 0.5 || h.Channels != 0 {
		t.Errorf("%+v", h)
	}
}

// L3: the gap of a LISTEN that got lost begins with the last heartbeat that was asked
// while the session listened, and ends when it listens again.
func TestGapOfALostListenHasItsTimes(t *testing.T) {
	t.Parallel()
	repaired := make(chan time.Time, 1) // just before the acknowledgement is sent
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"),
		beat("4711", "f", "0", "{a}"), beat("4711", "f", "0", "{}"), pgfake.Await('Q'),
		func(*pgfake.Session) error { repaired <- time.Now(); return nil }, acknowledged("LISTEN"), pgfake.Drain()})
	l, events := listen(t, server.DSN(), noHeartbeat)
	sub := subscribe(t, l, "a")
	asked := time.Now()
	mustPingListener(t, l)
	lost := time.Now()
	mustPingListener(t, l)
	mended := recv(t, repaired)
	gaps := []*pgnotify.Gap{event(t, sub).Gap, events.await(t, pgnotify.ListenerGap, 1).Gap}
	for _, gap := range gaps {
		if gap == nil || gap.Cause != pgnotify.GapListenLost {
			t.Fatalf("%+v", gap)
		}
		if gap.From.Before(asked) || !gap.From.Before(lost) {
			t.Errorf("it begins %v before the loss", lost.Sub(gap.From))
		}
		if gap.To.Before(mended) || gap.To.After(time.Now()) {
			t.Errorf("it ends %v after the repair", gap.To.Sub(mended))
		}
	}
}
