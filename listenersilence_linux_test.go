package pgnotify_test

import (
	"context"
	"database/sql"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultnet"
)

// L1: packets are lost on the way, and nobody is told. The heartbeat finds out, and
// the Listener goes on over another way. With packets lost before and after its
// LISTEN, and with no data in flight at all until the heartbeat.
func TestListenerInBlackHole(t *testing.T) {
	t.Parallel()
	s := ours(t)
	for _, m := range modes(t)[:2] { // TCP and TLS
		for _, unplugged := range []bool{false, true} {
			t.Run(m.name+map[bool]string{false: "/packets lost", true: "/interface down"}[unplugged], func(t *testing.T) {
				t.Parallel()
				link := faultnet.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
				var elsewhere atomic.Bool
				l, events := listenBy(t, connector(t, m.dsn, func(c *pgnotify.Config) {
					c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
						if elsewhere.Load() {
							return new(net.Dialer).DialContext(ctx, network, address)
						}
						return link.DialContext(ctx, network, address)
					}
				}), impatient)
				db := open(t, m.dsn)
				channel := uniqueName("a")
				sub := subscribe(t, l, channel)
				notify(t, db, channel, "before")
				wantPayload(t, sub, "before")
				pid := events.await(t, pgnotify.ListenerConnected, 1).PID
				t.Cleanup(func() { mustExec(t, db, "select pg_terminate_backend($1)", pid) }) // it was told nothing
				elsewhere.Store(true)
				began := time.Now()
				if unplugged {
					link.Unplug(t)
				} else {
					link.Cut()
				}
				notify(t, db, channel, "during")
				lost := events.await(t, pgnotify.ListenerDisconnected, 1)
				wantWithin(t, "noticing", began, 1200*time.Millisecond)
				wantLostFor(t, lost.Err, pgnotify.NetworkTimeout)
				events.await(t, pgnotify.ListenerConnected, 2)
				wantWithin(t, "connecting again", began, 1300*time.Millisecond)
				notify(t, db, channel, "after")
				wantGap(t, sub, pgnotify.NetworkTimeout)
				wantPayload(t, sub, "after")
			})
		}
	}
}

// L1 under load: the same, with a ledger.
func TestListenerInBlackHoleUnderLoad(t *testing.T) {
	t.Parallel()
	s := ours(t)
	for _, m := range modes(t)[:2] {
		for _, unplugged := range []bool{false, true} {
			t.Run(m.name+map[bool]string{false: "/packets lost", true: "/interface down"}[unplugged], func(t *testing.T) {
				t.Parallel()
				link := faultnet.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
				var elsewhere atomic.Bool
				r := newLoadRig(t, m.dsn, connector(t, m.dsn, func(c *pgnotify.Config) {
					c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
						if elsewhere.Load() {
							return new(net.Dialer).DialContext(ctx, network, address)
						}
						return link.DialContext(ctx, network, address)
					}
				}))
				pid, db := r.events.await(t, pgnotify.ListenerConnected, 1).PID, open(t, m.dsn)
				t.Cleanup(func() { mustExec(t, db, "select pg_terminate_backend($1)", pid) }) // it was told nothing
				r.untilMore(t)
				elsewhere.Store(true)
				if unplugged {
					link.Unplug(t)
				} else {
					link.Cut()
				}
				wantLostFor(t, r.events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.NetworkTimeout)
				r.events.await(t, pgnotify.ListenerConnected, 2)
				r.untilMore(t)
				if found := r.audit(t); found.missing == 0 {
					t.Error("nothing is missing of what was sent during the silence")
				}
			})
		}
	}
}

// L1: the way to the server is lost for everybody, and comes back. Attempts that
// get nowhere end by connect_timeout.
func TestListenerWhoseNetworkComesBack(t *testing.T) {
	t.Parallel()
	s := ours(t)
	link := faultnet.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
	l, events := listenBy(t, connector(t, dsn(t), within(300*time.Millisecond), func(c *pgnotify.Config) {
		c.DialContext = link.DialContext
	}), impatient)
	db := open(t, dsn(t))
	channel := uniqueName("a")
	sub := subscribe(t, l, channel)
	pid := events.await(t, pgnotify.ListenerConnected, 1).PID
	t.Cleanup(func() { mustExec(t, db, "select pg_terminate_backend($1)", pid) })
	link.Cut()
	events.await(t, pgnotify.ListenerReconnecting, 4)
	notify(t, db, channel, "during")
	link.Repair()
	events.await(t, pgnotify.ListenerConnected, 2)
	notify(t, db, channel, "after")
	wantGap(t, sub, pgnotify.NetworkTimeout)
	wantPayload(t, sub, "after")
}

// L19: Close in a black hole, with a heartbeat under way.
func TestListenerClosesInBlackHole(t *testing.T) {
	t.Parallel()
	s := ours(t)
	for _, m := range modes(t)[:2] {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			link := faultnet.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
			l, events := listenBy(t, connector(t, m.dsn, func(c *pgnotify.Config) { c.DialContext = link.DialContext }),
				func(c *pgnotify.ListenerConfig) { c.Heartbeat, c.HeartbeatTimeout = 20*time.Millisecond, time.Hour })
			subscribe(t, l, uniqueName("a"))
			pid := events.await(t, pgnotify.ListenerConnected, 1).PID
			db := open(t, m.dsn)
			t.Cleanup(func() { mustExec(t, db, "select pg_terminate_backend($1)", pid) })
			link.Cut()
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond) // for a heartbeat to begin
			defer cancel()
			if _, err := l.Ping(ctx); err == nil { // of one that was under way
				_, _ = l.Ping(ctx)
			}
			<-ctx.Done()
			closeAtOnce(t, l)
		})
	}
}

// L24: a Listener follows a failover to the server that takes writes, whether the old
// one dies or is cut off, over plain TCP and over TLS.
func TestListenerFollowsThePrimary(t *testing.T) {
	t.Parallel()
	for name, partition := range map[string]bool{"crash": false, "partition": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			fail, option := p.fault(t, partition)
			reasons := []pgnotify.DisconnectReason{pgnotify.AdminShutdown, pgnotify.CrashShutdown, pgnotify.PeerClosed}
			if partition {
				reasons = []pgnotify.DisconnectReason{pgnotify.NetworkTimeout}
			}
			var followers []*follower
			for _, dsn := range []string{p.dsn(), p.secureDSN()} {
				f := &follower{channel: uniqueName("a")}
				f.l, f.events = listenBy(t, connector(t, dsn, option, within(time.Second)), impatient)
				f.sub = subscribe(t, f.l, f.channel)
				notify(t, open(t, p.primary.DSN()), f.channel, "before")
				wantPayload(t, f.sub, "before")
				followers = append(followers, f)
			}
			began := time.Now()
			fail()
			for _, f := range followers {
				wantLostFor(t, f.events.await(t, pgnotify.ListenerDisconnected, 1).Err, reasons...)
			}
			t.Logf("noticed after %v", time.Since(began))
			standby := open(t, p.standby.DSN())
			if !queryValue[bool](t, standby, "select pg_promote()") {
				t.Fatal("not promoted")
			}
			promoted := time.Now()
			for i, f := range followers {
				f.wantOn(t, standby, i == 1, reasons)
			}
			t.Logf("connected %v after the promotion", time.Since(promoted))
		})
	}
}

// A follower is a Listener of a pair of servers.
type follower struct {
	l       *pgnotify.Listener
	events  *recorder
	channel string
	sub     *pgnotify.Subscription
}

// wantOn checks that a follower has come to another server, with or without TLS.
func (f *follower) wantOn(t *testing.T, server *sql.DB, secure bool, reasons []pgnotify.DisconnectReason) {
	t.Helper()
	again := f.events.await(t, pgnotify.ListenerConnected, 2)
	if !queryValue[bool](t, server, `select exists (select from pg_stat_activity join pg_stat_ssl using (pid)
		where pid = $1 and application_name = $2 and ssl = $3)`, again.PID, appName, secure) {
		t.Errorf("process %d is not the new primary's, or TLS is not %v", again.PID, secure)
	}
	notify(t, server, f.channel, "after")
	wantGap(t, f.sub, reasons...)
	wantPayload(t, f.sub, "after")
	health, err := f.l.Ping(testContext(t))
	if err != nil || health.InRecovery || health.Channels != 1 {
		t.Errorf("%+v, %v", health, err)
	}
}
