package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// impatient finds out within half a second that a session is silent.
func impatient(c *pgnotify.ListenerConfig) {
	c.Heartbeat, c.HeartbeatTimeout = 200*time.Millisecond, time.Second
	c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
}

// wantGap checks that the next event is a gap because a session was lost for one
// of the reasons.
func wantGap(t testing.TB, sub *pgnotify.Subscription, reasons ...pgnotify.DisconnectReason) {
	t.Helper()
	gap := event(t, sub).Gap
	if gap == nil || gap.Cause != pgnotify.GapReconnect {
		t.Fatalf("gap %+v", gap)
	}
	wantLostFor(t, gap.Err, reasons...)
}

func wantLostFor(t testing.TB, err error, reasons ...pgnotify.DisconnectReason) {
	t.Helper()
	if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || !slices.Contains(reasons, lost.Reason) {
		t.Errorf("lost because of %v, want one of %v", err, reasons)
	}
}

// wantPayload checks the next event.
func wantPayload(t testing.TB, sub *pgnotify.Subscription, payload string) {
	t.Helper()
	if e := event(t, sub); e.Gap != nil || e.Payload != payload {
		t.Fatalf("%+v, want %s", e, payload)
	}
}

// L2: a proxy passes nothing on any more, one way or both, while its connections
// live and keepalives are answered.
func TestListenerBehindProxyThatFallsSilent(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		for _, both := range []bool{false, true} {
			v, option := newValve(t, dsn)
			l, events := listenBy(t, connector(t, dsn, option), impatient)
			channel := uniqueName("a")
			sub := subscribe(t, l, channel)
			notify(t, db, channel, "before")
			wantPayload(t, sub, "before")
			began := time.Now()
			v.shut(both)
			notify(t, db, channel, "during")
			wantLostFor(t, events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.NetworkTimeout)
			wantWithin(t, "noticing", began, 1200*time.Millisecond)
			v.open()
			events.await(t, pgnotify.ListenerConnected, 2)
			notify(t, db, channel, "after")
			wantGap(t, sub, pgnotify.NetworkTimeout)
			wantPayload(t, sub, "after")
		}
	})
}

// wantWithin checks how long something took: the machine is shared, but a limit that is
// not kept is found.
func wantWithin(t testing.TB, what string, began time.Time, limit time.Duration) {
	t.Helper()
	took := time.Since(began)
	t.Logf("%s took %v", what, took)
	if took > 2*limit+2*time.Second {
		t.Errorf("%s took %v, should take %v", what, took, limit)
	}
}

func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "closed")
}

// L15: what the server answers is reported, by events and by Subscribe, and the
// Listener backs off.
func TestListenerReportsWhatTheServerRefuses(t *testing.T) {
	t.Parallel()
	refusesListen := func(code, hint string) string {
		return pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(
			pgfake.Frame('E', "SERROR\x00VERROR\x00C"+code+"\x00Mgo away\x00H"+hint+"\x00\x00"), pgfake.Ready('I')), pgfake.Drain()}).DSN()
	}
	s := ours(t)
	const missing = "The segment may be lost; restart the server."
	for name, c := range map[string]struct{ dsn, code, hint string }{
		"a wrong password":   {s.DSN() + " user=t_scram password=hush", "28P01", ""},
		"no pg_hba.conf":     {s.DSN() + " user=t_reject", "28000", ""},
		"no database":        {s.DSN() + " dbname=nowhere", "3D000", ""},
		"a missing segment":  {refusesListen("58P01", missing), "58P01", missing},
		"in recovery":        {refusesListen("25006", ""), "25006", ""},
		"too many clients":   {pgfake.Start(t, refusing("53300")).DSN(), "53300", ""},
		"a server to be":     {pgfake.Start(t, refusing("57P03")).DSN(), "57P03", ""},
		"an unknown feature": {refusesListen("0A000", ""), "0A000", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, events := listen(t, c.dsn, func(c *pgnotify.ListenerConfig) {
				c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
			})
			wantRefusal(t, l, events, c.code, c.hint)
		})
	}
}

// L15, with a real standby, whose health tells that it is one.
func TestListenerOnAStandby(t *testing.T) {
	t.Parallel()
	standby := startStandby(t, ours(t).Server)
	for _, m := range (&testServer{Server: standby, dsn: standby.DSN(), ca: ours(t).ca}).modes() {
		t.Run(m.name, func(t *testing.T) {
			l, events := listen(t, m.dsn, func(c *pgnotify.ListenerConfig) {
				c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
			})
			health, err := l.Ping(testContext(t)) // it has nothing to listen to
			if err != nil || !health.InRecovery {
				t.Errorf("%+v, %v", health, err)
			}
			wantRefusal(t, l, events, "25006", "")
		})
	}
}

// wantRefusal checks that Subscribe, Ping and the events tell the server's error,
// and that there are few attempts.
func wantRefusal(t *testing.T, l *pgnotify.Listener, events *recorder, code, hint string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	began := time.Now()
	_, err := l.Subscribe(ctx, "a")
	n, most := len(events.all(pgnotify.ListenerReconnecting)), int(40*max(1, time.Since(began).Seconds()))
	t.Logf("after %d attempts %v", n, err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Subscribe: %v", err)
	}
	check := func(what string, err error) {
		t.Helper()
		if e, ok := asError[*pq.Error](err); !ok || string(e.Code) != code || e.Hint != hint {
			t.Errorf("%s: %v, want %s with the hint %q", what, err, code, hint)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("Subscribe", err)
	for _, e := range events.all(pgnotify.ListenerReconnecting, pgnotify.ListenerDisconnected) {
		if e.Attempt == 1 && e.Err == nil {
			continue // it was connected before somebody subscribed, and Disconnected tells
		}
		check("event", e.Err)
		if !strings.Contains(e.String(), code) && !strings.Contains(e.String(), "pq: ") {
			t.Errorf("event %v", e)
		}
	}
	if n < 3 || n > most {
		t.Errorf("%d attempts, want 3 to %d", n, most)
	}
	if all := events.all(pgnotify.ListenerConnected, pgnotify.ListenerDisconnected); len(all) > 0 && all[0].Kind == pgnotify.ListenerDisconnected {
		t.Errorf("disconnected, and was not connected: %v", all)
	}
}

// L7: a new session listens to some of a subscriber's channels before it listens to
// the others, because the server refuses one that somebody else wants. What the
// first ones bring stands behind a gap already.
func TestGapComesWithTheFirstOfItsChannels(t *testing.T) {
	t.Parallel()
	s := newSender(t, dsn(t), 3)
	send := func() {
		for i := range s.channels {
			if err := s.sendNumbers(i, 1, ""); err != nil {
				t.Error(err)
			}
		}
	}
	for range 10 { // the order of channels is random
		v, option := newValve(t, dsn(t)+" sslmode=disable")
		l, events := listenBy(t, connector(t, dsn(t)+" sslmode=disable", option))
		sub := subscribe(t, l, s.channels...)
		g := s.ledger("all channels", s.channels...)
		send()
		v.shut(true)
		v.cut(false)
		events.await(t, pgnotify.ListenerReconnecting, 1)
		send()
		refused := async(t, func() error {
			_, err := l.Subscribe(testContext(t), "\xff")
			return err
		})
		until(t, "it wants the other channel", func() bool { return l.Stats().Channels == 4 })
		v.listen(func(request []byte) {
			if strings.Contains(string(request), "LISTEN") {
				send()
			}
		})
		v.open()
		events.await(t, pgnotify.ListenerConnected, 2)
		if e, ok := asError[*pq.Error](recv(t, refused)); !ok || e.Code != "22021" {
			t.Errorf("refused because of %v", e)
		}
		v.listen(nil)
		send()
		for !g.has([]int64{s.begun[0].Load(), s.begun[1].Load(), s.begun[2].Load()}) {
			g.note(event(t, sub))
		}
		found, wrong := g.audit(s.sent(t))
		t.Logf("%+v", found)
		if len(wrong) > 0 || found.gaps == 0 {
			t.Errorf("%d gaps: %q", found.gaps, wrong)
		}
		l.Close()
	}
}

// L18: a subscriber who reads nothing does not hold up the server's process: it
// gets rid of all that it has to say, and then holds back no VACUUM.
func TestSubscriberWhoReadsNothingHoldsUpNobody(t *testing.T) {
	const sent = 100_000
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			db := open(t, m.dsn)
			l, events := listen(t, m.dsn)
			channel := uniqueName("a")
			before := heap()
			subscribe(t, l, channel)
			pid := events.await(t, pgnotify.ListenerConnected, 1).PID
			for range 10 {
				mustExec(t, db, "select count(pg_notify($1, i || repeat('x', 100))) from generate_series(1, $2) i", channel, sent/10)
			}
			until(t, "all has been received", func() bool { return l.Stats().Received == sent })
			until(t, "the server's process waits for its client", func() bool {
				return queryValue[bool](t, db, `select wait_event is not distinct from 'ClientRead' and backend_xmin is null
					from pg_stat_activity where pid = $1`, pid)
			})
			if used := heap() - before; used > 4<<20 {
				t.Errorf("%d bytes for %d notifications", used, sent)
			}
			if usage := queryValue[float64](t, db, "select pg_notification_queue_usage()"); usage > 0.01 {
				t.Errorf("the server's queue is full by %v", usage)
			}
			if _, err := l.Ping(testContext(t)); err != nil {
				t.Error(err)
			}
			closeAtOnce(t, l)
		})
	}
}
