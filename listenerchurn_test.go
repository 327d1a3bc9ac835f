package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// onWrite has a function called before each write of a connector's connections.
func onWrite(f func(p []byte)) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &toldConn{conn, f}, nil
		}
	}
}

type toldConn struct {
	net.Conn
	told func(p []byte)
}

func (c *toldConn) Write(p []byte) (int, error) {
	c.told(p)
	return c.Conn.Write(p)
}

// Over a connection of some milliseconds, subscribers come and go all the time: in each
// round trip there is something new to listen to. Heartbeats and Pings have their turn,
// and so has what comes after a session was lost (L3, L4).
func TestSubscribersWhoComeAndGoHoldUpNobody(t *testing.T) {
	t.Parallel()
	far := onWrite(func([]byte) { time.Sleep(5 * time.Millisecond) })
	l, events := listenBy(t, connector(t, dsn(t), far), func(c *pgnotify.ListenerConfig) { c.Heartbeat = 20 * time.Millisecond })
	stay := uniqueName("a")
	sub := subscribe(t, l, stay)
	ctx, leave := context.WithCancel(testContext(t))
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer leave()
	for range 40 {
		name := uniqueName("b")
		crowd.Go(func() {
			for i := 0; rest(ctx, rand.N(20*time.Millisecond)); i++ {
				if sub, err := l.Subscribe(ctx, fmt.Sprintf("%s_%d", name, i)); err == nil {
					rest(ctx, rand.N(20*time.Millisecond))
					sub.Close()
				}
			}
		})
	}
	until(t, "the crowd has come", func() bool { return l.Stats().Subscriptions > 10 })
	for range 3 {
		if _, err := l.Ping(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	before := l.Stats().HeartbeatRoundTrip
	until(t, "a heartbeat", func() bool { return l.Stats().HeartbeatRoundTrip != before })
	db := open(t, dsn(t))
	terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
	events.await(t, pgnotify.ListenerConnected, 2)
	wantGap(t, sub, pgnotify.AdminShutdown)
	notify(t, db, stay, "after")
	wantPayload(t, sub, "after")
}

// A program's log that blocks in the middle of CatchUp's error holds up only that
// subscriber, not Close.
func TestLogThatBlocksHoldsUpNoClose(t *testing.T) {
	t.Parallel()
	log := blockingLog{slog.DiscardHandler, make(chan struct{}), make(chan struct{}, 1)}
	leave := sync.OnceFunc(func() { close(log.leave) })
	defer leave()
	defer time.AfterFunc(5*time.Second, leave).Stop() // for a Close that would wait
	l, _ := listen(t, dsn(t), func(c *pgnotify.ListenerConfig) { c.Logger = slog.New(log) })
	subscribeWith(t, l, pgnotify.SubscriptionConfig{
		Channels: []string{uniqueName("a")},
		CatchUp:  func(context.Context, pgnotify.Gap) error { return errors.New("on purpose") },
	})
	recv(t, log.entered)
	closeAtOnce(t, l)
}

// A blockingLog blocks where CatchUp has failed.
type blockingLog struct {
	slog.Handler
	leave   chan struct{}
	entered chan struct{}
}

func (b blockingLog) Enabled(context.Context, slog.Level) bool { return true }

func (b blockingLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "pgnotify: CatchUp failed" {
		b.entered <- struct{}{}
		<-b.leave
	}
	return nil
}

// Promise 5: an OnNotice that blocks does not hold up a Listener, whose LISTEN brings
// notices here.
func TestOnNoticeThatBlocksHoldsUpNoListener(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	defer close(leave)
	c := connector(t, dsn(t)+" options='-c client_min_messages=debug5'", func(c *pgnotify.Config) {
		c.OnNotice = func(*pgnotify.Conn, *pgnotify.Notice) { <-leave }
	})
	l, events := listenBy(t, c)
	events.await(t, pgnotify.ListenerConnected, 1)
	began := time.Now()
	for range 5 {
		subscribe(t, l, uniqueName("a"))
	}
	wantWithin(t, "five times Subscribe", began, 100*time.Millisecond) // a second each, if it waited
	closeAtOnce(t, l)
}
