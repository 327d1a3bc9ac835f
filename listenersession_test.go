package pgnotify_test

import (
	"bytes"
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A session that is lost during the delivery probe has never been connected, though
// there was nothing to listen to.
func TestSessionLostDuringTheProbe(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	app := uniqueName("probed")
	var probes atomic.Int64
	terminated := make(chan struct{}) // the probe's session does not wait for it
	lose := onWrite(func(p []byte) {
		if bytes.Contains(p, []byte("NOTIFY")) && probes.Add(1) == 1 {
			defer close(terminated)
			terminateAndWait(t, db, queryValue[uint32](t, db,
				"select pid from pg_stat_activity where application_name = $1 order by backend_start limit 1", app))
		}
	})
	_, events := listenBy(t, connector(t, dsn(t), lose, func(c *pgnotify.Config) { c.ApplicationName = app }), impatient,
		func(c *pgnotify.ListenerConfig) { c.DeliveryProbe, c.HeartbeatTimeout = true, time.Minute })
	events.await(t, pgnotify.ListenerConnected, 1)
	recv(t, terminated)
	all := events.all()
	if len(all) != 2 || all[0].Kind != pgnotify.ListenerReconnecting || !pgnotify.IsDisconnect(all[0].Err) {
		t.Errorf("%v", all)
	}
}

// A session is lost while a LISTEN that got lost is mended: the gap says what happened
// last.
func TestListenLostAndThenTheSession(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	channel := uniqueName("a")
	conns := make(chan *pgnotify.Conn, 10)
	var pid atomic.Uint32
	var listens atomic.Int64
	lose := onWrite(func(p []byte) {
		if bytes.Contains(p, []byte(`LISTEN "`+channel)) && !bytes.Contains(p, []byte("UN")) && listens.Add(1) == 2 {
			terminateAndWait(t, db, pid.Load())
		}
	})
	l, events := listenBy(t, connector(t, dsn(t), lose, func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error { conns <- c; return nil }
	}), impatient)
	sub := subscribe(t, l, channel)
	session := recv(t, conns)
	pid.Store(session.PID())
	if err := session.Unlisten(testContext(t)); err != nil {
		t.Fatal(err)
	}
	events.await(t, pgnotify.ListenerConnected, 2)
	wantGap(t, sub, pgnotify.AdminShutdown)
}

// Promise 3 for Ping, and what it tells of when something was heard.
func TestPingWithADeadContextAsksNothing(t *testing.T) {
	t.Parallel()
	l, events := listen(t, dsn(t), func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
	events.await(t, pgnotify.ListenerConnected, 1)
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := l.Ping(ctx); err == nil {
		t.Error("no error with a context that has ended")
	}
	subscribed := time.Now()
	subscribe(t, l, uniqueName("a"))
	if n := l.Stats().HeartbeatRoundTrip; n != 0 {
		t.Errorf("a heartbeat of %v", n)
	}
	health, err := l.Ping(testContext(t))
	if err != nil || health.LastHeard.Before(subscribed) {
		t.Errorf("last heard %v before Subscribe, %v", subscribed.Sub(health.LastHeard), err)
	}
}

// Settings as large as can be mean what they say, or are refused.
func TestLargestSettings(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, dsn(t), func(c *pgnotify.ListenerConfig) {
		c.MinBackoff, c.MaxBackoff = math.MaxInt64, math.MaxInt64
		c.Heartbeat, c.HeartbeatTimeout = math.MaxInt64, math.MaxInt64
	})
	channel := uniqueName("a")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 1 << 24})
	notify(t, open(t, dsn(t)), channel, "x")
	wantPayload(t, sub, "x")
	for _, size := range []int{-1, 1, 1<<24 + 1, math.MaxInt} {
		if sub, err := l.SubscribeConfig(testContext(t), pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: size}); err == nil {
			t.Errorf("QueueSize %d is taken", size)
			sub.Close()
		}
	}
}

// Passwords rotate: BeforeConnect gives another one for each session, and the Listener
// comes back with it when the old one is not good any more.
func TestListenerWithRotatingPasswords(t *testing.T) {
	t.Parallel()
	db := open(t, ours(t).DSN())
	for _, m := range modes(t)[:2] { // in turn: there is one role
		t.Run(m.name, func(t *testing.T) {
			var password atomic.Value
			rotate := func() {
				password.Store(uniqueName("hush"))
				mustExec(t, db, "alter role t_rotated password '"+password.Load().(string)+"'")
			}
			rotate()
			before := m.dsn + " user=t_rotated password=" + password.Load().(string)
			l, events := listenBy(t, connector(t, before, func(c *pgnotify.Config) {
				c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
					c.Password = password.Load().(string)
					return nil
				}
			}), impatient)
			channel := uniqueName("a")
			sub := subscribe(t, l, channel)
			for i := range 2 {
				rotate()
				terminate(t, db, events.await(t, pgnotify.ListenerConnected, i+1).PID)
				events.await(t, pgnotify.ListenerConnected, i+2)
				wantGap(t, sub, pgnotify.AdminShutdown)
				notify(t, db, channel, "x")
				wantPayload(t, sub, "x")
			}
			if code := serverError(t, connectError(t, before)).Code; code != "28P01" {
				t.Errorf("the first password: %s", code)
			}
		})
	}
}
