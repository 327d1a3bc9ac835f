package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// L5: the server is down for a while. The first attempt comes at once and others
// after random waits; then all channels are listened to again in one round trip.
func TestListenerOutlivesItsServer(t *testing.T) {
	t.Parallel()
	const subscribers, each = 10, 100
	s := ownServer(t)
	for _, how := range []pgserver.StopMode{pgserver.Fast, pgserver.Immediate} {
		for _, m := range s.modes() {
			t.Run(fmt.Sprintf("%v/%s", how, m.name), func(t *testing.T) {
				var listens atomic.Int64
				v, option := newEavesdropper(t, m.dsn)
				v.listen(func(request []byte) {
					if request[0] == 'Q' && strings.Contains(string(request), "LISTEN") {
						listens.Add(1)
					}
				})
				l, events := listenBy(t, connector(t, m.dsn, option), impatient)
				var channels []string
				var subs []*pgnotify.Subscription
				for range subscribers {
					var own []string
					for range each {
						own = append(own, uniqueName("a"))
					}
					channels = append(channels, own...)
					subs = append(subs, subscribe(t, l, own...))
				}
				events.await(t, pgnotify.ListenerConnected, 1)
				before := listens.Load()
				if err := s.Stop(testContext(t), how); err != nil {
					t.Fatal(err)
				}
				events.await(t, pgnotify.ListenerReconnecting, 12)
				restart(t, s, how)
				events.await(t, pgnotify.ListenerConnected, 2)
				if n := listens.Load() - before; n != 1 {
					t.Errorf("%d requests for %d channels", n, len(channels))
				}
				wantBackoff(t, events)
				db := open(t, m.dsn)
				mustExec(t, db, "select count(pg_notify(c, 'again')) from unnest($1::text[]) c", pq.Array(channels))
				for _, sub := range subs {
					wantGap(t, sub, pgnotify.AdminShutdown, pgnotify.CrashShutdown, pgnotify.PeerClosed)
					for range each {
						wantPayload(t, sub, "again")
					}
				}
			})
		}
	}
}

// wantBackoff checks the waits before the attempts that impatient makes.
func wantBackoff(t *testing.T, events *recorder) {
	t.Helper()
	delays := make(map[time.Duration]bool)
	all := events.all(pgnotify.ListenerReconnecting, pgnotify.ListenerConnected)
	for i, e := range all[1:] {
		if e.Kind != pgnotify.ListenerReconnecting {
			break
		}
		ceiling := min(20*time.Millisecond<<max(0, min(e.Attempt-2, 10)), 200*time.Millisecond)
		switch {
		case e.Attempt != i+1:
			t.Errorf("%v, want attempt %d", e, i+1)
		case e.Attempt == 1 && (e.Delay != 0 || e.Err != nil):
			t.Errorf("%v does not come at once", e)
		case e.Attempt > 1 && (e.Delay < 0 || e.Delay >= ceiling || e.Err == nil):
			t.Errorf("%v, want a delay below %v", e, ceiling)
		case e.Time.Sub(all[i].Time) < all[i].Delay:
			t.Errorf("%v comes %v after %v", e, e.Time.Sub(all[i].Time), all[i])
		}
		if e.Attempt > 4 {
			delays[e.Delay] = true
		}
	}
	if len(delays) < 4 {
		t.Errorf("the delays are not random: %v", delays)
	}
}

// D3 for a Listener, under load: the server's process or all of it ends, or the
// connection does, in the middle of notifications. The reason is told, and what is
// missing lies in a gap.
func TestListenerLosesItsSessionUnderLoad(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for _, c := range []struct {
		name    string
		reasons []pgnotify.DisconnectReason
		fail    func(t *testing.T, r *loadRig)
	}{
		{"terminated", []pgnotify.DisconnectReason{pgnotify.AdminShutdown}, func(t *testing.T, r *loadRig) {
			terminate(t, r.db, r.pid)
		}},
		{"FIN", []pgnotify.DisconnectReason{pgnotify.PeerClosed}, func(_ *testing.T, r *loadRig) { r.valve.cut(false) }},
		{"RST", []pgnotify.DisconnectReason{pgnotify.Reset, pgnotify.PeerClosed}, func(_ *testing.T, r *loadRig) { r.valve.cut(true) }},
		{"truncated", []pgnotify.DisconnectReason{pgnotify.PeerClosed, pgnotify.Reset}, func(_ *testing.T, r *loadRig) { r.valve.cutAfter(1 + rand.IntN(1000)) }},
		{"crash", []pgnotify.DisconnectReason{pgnotify.CrashShutdown, pgnotify.PeerClosed}, func(t *testing.T, r *loadRig) {
			_, _ = r.db.ExecContext(testContext(t), "copy (select 1) to program 'kill -9 $PPID'")
		}},
		{"fast", []pgnotify.DisconnectReason{pgnotify.AdminShutdown}, func(t *testing.T, _ *loadRig) { restart(t, s, pgserver.Fast) }},
		{"immediate", []pgnotify.DisconnectReason{pgnotify.AdminShutdown, pgnotify.CrashShutdown, pgnotify.PeerClosed},
			func(t *testing.T, _ *loadRig) { restart(t, s, pgserver.Immediate) }},
	} {
		for _, m := range s.modes() {
			t.Run(c.name+"/"+m.name, func(t *testing.T) {
				v, option := newValve(t, m.dsn)
				r := newLoadRig(t, s.DSN(), connector(t, m.dsn, option), func(c *pgnotify.ListenerConfig) {
					c.HeartbeatTimeout = 10 * time.Second // what fails here is not silent
				})
				r.valve = v
				r.pid = r.events.await(t, pgnotify.ListenerConnected, 1).PID
				r.untilMore(t)
				c.fail(t, r)
				lost := r.events.await(t, pgnotify.ListenerDisconnected, 1)
				wantLostFor(t, lost.Err, c.reasons...)
				r.events.await(t, pgnotify.ListenerConnected, 2)
				r.untilMore(t)
				r.audit(t)
			})
		}
	}
}

// D3: idle_session_timeout ends the session of a Listener without a heartbeat, and
// that is told; a heartbeat keeps it.
func TestListenerAndIdleSessionTimeout(t *testing.T) {
	eachListener(t, func(t *testing.T, _ *sql.DB, dsn string) {
		needsServer(t, 14, "idle_session_timeout")
		dsn += " options='-c idle_session_timeout=500'"
		channel := uniqueName("a")
		l, events := listen(t, dsn, func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
		sub := subscribe(t, l, channel)
		kept, keptEvents := listen(t, dsn, func(c *pgnotify.ListenerConfig) { c.Heartbeat = 50 * time.Millisecond })
		subscribe(t, kept, channel)
		wantLostFor(t, events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.IdleTimeout)
		wantGap(t, sub, pgnotify.IdleTimeout)
		events.await(t, pgnotify.ListenerDisconnected, 2)
		if all := keptEvents.all(pgnotify.ListenerDisconnected); len(all) > 0 {
			t.Errorf("with heartbeats: %v", all)
		}
	})
}

// D3 under load, with a ledger: notifications do not keep the server from ending a
// session that asks for nothing.
func TestListenerAndIdleSessionTimeoutUnderLoad(t *testing.T) {
	eachListener(t, func(t *testing.T, _ *sql.DB, dsn string) {
		needsServer(t, 14, "idle_session_timeout")
		var begun atomic.Bool
		r := newLoadRig(t, dsn, connector(t, dsn, func(c *pgnotify.Config) {
			c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
				if !begun.Swap(true) { // the first session only
					c.Runtime = map[string]string{"idle_session_timeout": "500"}
				}
				return nil
			}
		}), func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
		r.untilMore(t)
		wantLostFor(t, r.events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.IdleTimeout)
		r.events.await(t, pgnotify.ListenerConnected, 2)
		r.untilMore(t)
		r.audit(t)
	})
}
