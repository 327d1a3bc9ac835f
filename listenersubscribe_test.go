package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// L10: Subscribe returns when the present session has acknowledged it, and not
// because an earlier one had.
func TestSubscribeWaitsForTheAcknowledgement(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}, 10), make(chan struct{})
	note := func(*pgfake.Session) error { asked <- struct{}{}; return nil }
	_, dsn := scripted(t,
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Await('Q')}, // lost with the second
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), note, pgfake.WaitFor(goOn), acknowledged("LISTEN", "LISTEN"), pgfake.Hang()},
	)
	l, _ := listen(t, dsn)
	subscribe(t, l, "a")
	done := make(chan error, 1)
	go func() {
		_, err := l.Subscribe(testContext(t), "a", "b")
		done <- err
	}()
	<-asked // b was asked for twice
	select {
	case err := <-done:
		t.Fatalf("returned before the acknowledgement: %v", err)
	default:
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// L11: a Subscribe whose context has ended is forgotten, by a reconnect too.
func TestSubscribeThatWasGivenUp(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	var down atomic.Bool
	down.Store(true)
	l, events := listenBy(t, &gate{connector(t, dsn(t)), &down}, quickRetries)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	given, err := l.Subscribe(ctx, uniqueName("a"))
	if given != nil || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errGate) {
		t.Errorf("%v, %v", given, err)
	}
	down.Store(false)
	first := events.await(t, pgnotify.ListenerConnected, 1)
	for i := range 2 {
		health, err := l.Ping(testContext(t))
		if err != nil || health.Channels != 0 {
			t.Errorf("%+v, %v", health, err)
		}
		if stats := l.Stats(); stats.Subscriptions != 0 || stats.Channels != 0 {
			t.Errorf("%+v", stats)
		}
		if i == 0 {
			terminate(t, db, first.PID)
			events.await(t, pgnotify.ListenerConnected, 2)
		}
	}
}

var errGate = errors.New("the gate is closed")

// A gate is a connector that fails while it is closed.
type gate struct {
	driver.Connector
	closed *atomic.Bool
}

func (g *gate) Connect(ctx context.Context) (driver.Conn, error) {
	if g.closed.Load() {
		return nil, errGate
	}
	return g.Connector.Connect(ctx)
}

func quickRetries(c *pgnotify.ListenerConfig) {
	c.MinBackoff, c.MaxBackoff = time.Millisecond, 10*time.Millisecond
}

// L12: who subscribes while the Listener waits to reconnect is heard like all.
func TestSubscribeDuringBackoff(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	var down atomic.Bool
	l, events := listenBy(t, &gate{connector(t, dsn(t)), &down}, quickRetries)
	pid := events.await(t, pgnotify.ListenerConnected, 1).PID
	down.Store(true)
	terminate(t, db, pid)
	events.await(t, pgnotify.ListenerReconnecting, 3)
	const n = 50
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			channel := uniqueName(fmt.Sprint(i))
			sub, err := l.Subscribe(testContext(t), channel)
			if err != nil {
				t.Error(err)
				return
			}
			defer sub.Close()
			if err := pgnotify.Notify(testContext(t), db, channel, "x"); err != nil {
				t.Error(err)
			}
			if e := event(t, sub); e.Payload != "x" {
				t.Errorf("%+v", e)
			}
		})
		if i == n/2 {
			down.Store(false)
		}
	}
	all.Wait()
}

// L21: Subscribe by the goroutine that drains a full queue.
func TestSubscribeBesideAFullQueue(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	l, events := listen(t, dsn(t))
	channel, other := uniqueName("a"), uniqueName("b")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 2})
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, 100) i", channel)
	events.await(t, pgnotify.ListenerSlowConsumer, 1)
	second := subscribe(t, l, other)
	notify(t, db, other, "x")
	if e := event(t, second); e.Payload != "x" {
		t.Errorf("%+v", e)
	}
	if e := event(t, sub); e.Payload != "1" {
		t.Errorf("%+v", e)
	}
}

// L22: the last one leaves while another one comes: that one always hears.
func TestLastLeavesAsAnotherComes(t *testing.T) {
	t.Parallel()
	const workers = 20
	rounds := 500
	if testing.Short() {
		rounds = 25
	}
	db := open(t, dsn(t))
	db.SetMaxOpenConns(4)
	l, _ := listen(t, dsn(t))
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			channel := uniqueName("a")
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			last, err := l.Subscribe(ctx, channel)
			for i := 0; i < rounds && err == nil; i++ {
				left := make(chan struct{})
				go func() { last.Close(); close(left) }()
				var next *pgnotify.Subscription
				if next, err = l.Subscribe(ctx, channel); err != nil {
					break
				}
				<-left
				if err = pgnotify.Notify(ctx, db, channel, fmt.Sprint(i)); err != nil {
					break
				}
				select {
				case e := <-next.Events():
					if e.Payload != fmt.Sprint(i) {
						err = fmt.Errorf("round %d: %+v", i, e)
					}
				case <-ctx.Done():
					err = fmt.Errorf("round %d: not heard", i)
				}
				last = next
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// L23: two subscribers are one LISTEN, and two more none; one leaves, and the other still
// hears.
func TestTwoSubscribersAreOneListen(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		v, option := newEavesdropper(t, dsn)
		l, _ := listenBy(t, connector(t, dsn, option), noHeartbeat)
		channel := uniqueName("a")
		listens := listensTo(v, channel)
		one, two := subscribe(t, l, channel), subscribe(t, l, channel)
		subscribe(t, l, channel, channel+"_too").Close()
		until(t, "the second channel is gone", func() bool { // a Ping may have its turn before the UNLISTEN
			health, err := l.Ping(testContext(t))
			return err == nil && health.Channels == 1
		})
		if n := listens(); n != 2 { // one each
			t.Errorf("%d LISTEN for two channels", n)
		}
		one.Close()
		if _, ok := <-one.Events(); ok || one.Err() != pgnotify.ErrClosed {
			t.Errorf("open %v, %v", ok, one.Err())
		}
		notify(t, db, channel, "x")
		if e := event(t, two); e.Payload != "x" {
			t.Errorf("%+v", e)
		}
		two.Close()
		if health, err := l.Ping(testContext(t)); err != nil || health.Channels != 0 {
			t.Errorf("%+v, %v", health, err)
		}
	})
}

// A channel that the server refuses is nobody's loss but its subscribers'.
func TestChannelThatTheServerRefuses(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	var down atomic.Bool
	down.Store(true)
	l, _ := listenBy(t, &gate{connector(t, dsn(t)), &down}, quickRetries)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			channel := uniqueName("a")
			if i%7 == 3 {
				channel += "\xff"
			}
			sub, err := l.Subscribe(testContext(t), channel)
			if refused, ok := asError[*pq.Error](err); i%7 == 3 {
				if !ok || refused.Code != "22021" || !strings.Contains(err.Error(), "subscribe") {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer sub.Close()
			if err := pgnotify.Notify(testContext(t), db, channel, "x"); err != nil {
				t.Error(err)
			}
			if e := event(t, sub); e.Payload != "x" {
				t.Errorf("%+v", e)
			}
		})
	}
	until(t, "all subscribe at once", func() bool { return l.Stats().Subscriptions == 20 })
	down.Store(false)
	all.Wait()
}

// A server that refuses UNLISTEN is not asked again and again.
func TestUnlistenThatTheServerRefuses(t *testing.T) {
	t.Parallel()
	refused := make(chan struct{}, 1)
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN", "LISTEN"),
		pgfake.Await('Q'), pgfake.Send(pgfake.Error("ERROR", "42501", "no"), pgfake.Ready('I')),
		func(*pgfake.Session) error { refused <- struct{}{}; return nil },
		pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Drain()})
	l, _ := listen(t, server.DSN())
	subscribe(t, l, "a", "b").Close()
	<-refused
	subscribe(t, l, "c")
	if n := server.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestSubscribeRefuses(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, dsn(t))
	for name, config := range map[string]pgnotify.SubscriptionConfig{
		"no channel":   {},
		"empty name":   {Channels: []string{""}},
		"long name":    {Channels: []string{strings.Repeat("x", 64)}},
		"NUL":          {Channels: []string{"a\x00b"}},
		"small queue":  {Channels: []string{"a"}, QueueSize: 1},
		"no such rule": {Channels: []string{"a"}, Overflow: 7},
	} {
		sub, err := l.SubscribeConfig(testContext(t), config)
		if sub != nil || err == nil {
			t.Errorf("%s: %v, %v", name, sub, err)
		}
		if strings.Contains(name, "name") && !errors.Is(err, pgnotify.ErrChannelName) {
			t.Errorf("%s: %v", name, err)
		}
		if text := fmt.Sprint(err); name == "no channel" && text != "pgnotify: subscribe: invalid channel name: none is named" {
			t.Error(text)
		}
	}
	if _, err := pgnotify.NewListener(nil, nil); err == nil {
		t.Error("a Listener without a connector")
	}
	if _, err := pgnotify.NewListener(connector(t, dsn(t)), &pgnotify.ListenerConfig{MinBackoff: -1}); err == nil {
		t.Error("a negative MinBackoff")
	}
}

// A panic of BeforeConnect is an attempt that failed, on the Listener's goroutine.
func TestBeforeConnectThatPanicsUnderAListener(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := connector(t, dsn(t), func(c *pgnotify.Config) {
		c.BeforeConnect = func(context.Context, *pgnotify.Config) error {
			if calls.Add(1) < 3 {
				panic("no")
			}
			return nil
		}
	})
	l, events := listenBy(t, c, quickRetries)
	subscribe(t, l, uniqueName("a"))
	if e := events.await(t, pgnotify.ListenerReconnecting, 2); e.Err == nil || !strings.Contains(e.Err.Error(), "panicked") {
		t.Errorf("%v", e)
	}
}

// The error of many channels names some of them.
func TestErrorOfManyChannels(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, dsn(t))
	channels := make([]string, 1000)
	for i := range channels {
		channels[i] = fmt.Sprint("c", i)
	}
	channels[999] = ""
	if _, err := l.Subscribe(testContext(t), channels...); err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "992 more") {
		t.Error(err)
	}
}
