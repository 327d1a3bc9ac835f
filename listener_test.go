package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// A recorder keeps the events of a Listener.
type recorder struct {
	mu     sync.Mutex // guards events
	events []pgnotify.ListenerEvent
	came   chan struct{} // has a token when one has come
}

func newRecorder() *recorder { return &recorder{came: make(chan struct{}, 1)} }

func (r *recorder) record(e pgnotify.ListenerEvent) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	select {
	case r.came <- struct{}{}:
	default:
	}
}

// all returns the events so far of the given kinds, of all where none is given.
func (r *recorder) all(kinds ...pgnotify.ListenerEventKind) []pgnotify.ListenerEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []pgnotify.ListenerEvent
	for _, e := range r.events {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			found = append(found, e)
		}
	}
	return found
}

// await waits for the n-th event of a kind.
func (r *recorder) await(t testing.TB, kind pgnotify.ListenerEventKind, n int) pgnotify.ListenerEvent {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		if found := r.all(kind); len(found) >= n {
			return found[n-1]
		}
		select {
		case <-r.came:
		case <-timeout:
			t.Fatalf("no event %v, number %d, in %v", kind, n, r.all())
		}
	}
}

// awaitError waits for an event with an error.
func (r *recorder) awaitError(t testing.TB, want error) (found pgnotify.ListenerEvent) {
	t.Helper()
	until(t, "an event tells: "+want.Error(), func() bool {
		all := r.all()
		at := slices.IndexFunc(all, func(e pgnotify.ListenerEvent) bool { return errors.Is(e.Err, want) })
		if at >= 0 {
			found = all[at]
		}
		return at >= 0
	})
	return found
}

// listen returns a Listener that is closed when the test ends, and its events.
func listen(t testing.TB, dsn string, options ...func(*pgnotify.ListenerConfig)) (*pgnotify.Listener, *recorder) {
	t.Helper()
	return listenBy(t, connector(t, dsn), options...)
}

// listenBy is listen with a connector of the test's own.
func listenBy(t testing.TB, c driver.Connector, options ...func(*pgnotify.ListenerConfig)) (*pgnotify.Listener, *recorder) {
	t.Helper()
	events := newRecorder()
	config := pgnotify.ListenerConfig{OnEvent: events.record, Logger: quiet}
	for _, o := range options {
		o(&config)
	}
	l, err := pgnotify.NewListener(c, &config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, events
}

// subscribe subscribes until the test ends.
func subscribe(t testing.TB, l *pgnotify.Listener, channels ...string) *pgnotify.Subscription {
	t.Helper()
	return subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: channels})
}

func subscribeWith(t testing.TB, l *pgnotify.Listener, config pgnotify.SubscriptionConfig) *pgnotify.Subscription {
	t.Helper()
	sub, err := l.SubscribeConfig(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return sub
}

// event waits for the next event of a subscription. By default, where the server is
// reached over TLS it takes it from the Go channel, elsewhere it iterates, so that both
// are tried.
func event(t testing.TB, sub *pgnotify.Subscription) pgnotify.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if !byChannel(t) {
		for e := range iterated(ctx, sub) {
			return e
		}
	} else {
		select {
		case e, ok := <-sub.Events():
			if ok {
				return e
			}
		case <-ctx.Done():
		}
	}
	t.Fatalf("no event: %v, %v", ctx.Err(), sub.Err())
	panic("unreachable")
}

// iterated returns what All of a subscription yields, as events, until it ends.
func iterated(ctx context.Context, sub *pgnotify.Subscription) iter.Seq[pgnotify.Event] {
	return func(yield func(pgnotify.Event) bool) {
		var gap *pgnotify.GapError
		for n, err := range sub.All(ctx) {
			e := pgnotify.Event{Notification: n}
			if errors.As(err, &gap) {
				e.Gap = &gap.Gap
			} else if err != nil {
				return
			}
			if !yield(e) {
				return
			}
		}
	}
}

// received returns what comes out of the Go channel of a subscription, until it is closed.
func received(sub *pgnotify.Subscription) iter.Seq[pgnotify.Event] {
	return func(yield func(pgnotify.Event) bool) {
		for e := range sub.Events() {
			if !yield(e) {
				return
			}
		}
	}
}

// eachListener runs a test over each way to reach the server.
func eachListener(t *testing.T, f func(t *testing.T, db *sql.DB, dsn string)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, m.dsn), m.dsn)
		})
	}
}

func TestListenerHears(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, _ := listen(t, dsn)
		a, b := uniqueName("a"), uniqueName("b")
		both, one := subscribe(t, l, a, b, a), subscribe(t, l, b)
		notify(t, db, a, "1")
		notify(t, db, b, "2")
		notify(t, db, a, "3")
		until(t, "all have come", func() bool { return l.Stats().Received == 3 })
		if stats := l.Stats(); stats.Queued != 4 || stats.LongestQueue != 3 {
			t.Errorf("queued: %+v", stats)
		}
		for _, want := range []string{"1", "2", "3"} {
			if e := event(t, both); e.Payload != want || e.Gap != nil {
				t.Errorf("%+v, want %s", e, want)
			}
		}
		if e := event(t, one); e.Payload != "2" || e.Channel != b || e.PID == 0 {
			t.Errorf("%+v", e)
		}
		stats := l.Stats()
		if stats.Received != 3 || stats.Delivered != 4 || stats.Channels != 2 || stats.Subscriptions != 2 ||
			stats.Queued != 0 || stats.LongestQueue != 0 {
			t.Errorf("%+v", stats)
		}
		if want := uint64(2*len(a) + len(b) + len("123")); stats.Bytes != want {
			t.Errorf("%d bytes, want %d", stats.Bytes, want)
		}
	})
}

// L4, L7: one Disconnected event with the reason, one gap for each outage, and the
// gap before anything newer.
func TestListenerReconnects(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn)
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		for i := range 3 {
			first := events.await(t, pgnotify.ListenerConnected, i+1)
			terminate(t, db, first.PID)
			events.await(t, pgnotify.ListenerConnected, i+2)
			notify(t, db, channel, fmt.Sprint(i))
			gap := event(t, sub).Gap
			if gap == nil || gap.Cause != pgnotify.GapReconnect || gap.From.IsZero() || gap.To.Before(gap.From) {
				t.Fatalf("gap %+v", gap)
			}
			if lost, ok := asError[*pgnotify.DisconnectError](gap.Err); !ok || lost.Reason != pgnotify.AdminShutdown || lost.Sent {
				t.Errorf("gap because of %v", gap.Err)
			}
			if e := event(t, sub); e.Payload != fmt.Sprint(i) {
				t.Errorf("%+v", e)
			}
		}
		for _, kind := range []pgnotify.ListenerEventKind{pgnotify.ListenerDisconnected, pgnotify.ListenerGap} {
			if n := len(events.all(kind)); n != 3 {
				t.Errorf("%d events %v of 3 losses", n, kind)
			}
		}
		e := events.all(pgnotify.ListenerDisconnected)[0]
		if lost, ok := asError[*pgnotify.DisconnectError](e.Err); !ok || lost.Reason != pgnotify.AdminShutdown {
			t.Errorf("disconnected because of %v", e.Err)
		}
		if stats := l.Stats(); stats.Reconnects != 3 || stats.Gaps != 3 {
			t.Errorf("%+v", stats)
		}
	})
}

// L17: an overflow is a gap with the right number, and others get everything.
func TestListenerOverflow(t *testing.T) { eachTaking(t, testListenerOverflow) }

func testListenerOverflow(t *testing.T) {
	db := open(t, dsn(t))
	l, events := listen(t, dsn(t))
	channel := uniqueName("a")
	const sent = 20_000
	slow := subscribe(t, l, channel)
	fast := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: sent + 1})
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, $2) i", channel, sent)
	for i := range sent {
		if e := event(t, fast); e.Gap != nil || e.Payload != fmt.Sprint(i+1) {
			t.Fatalf("%+v, want %d", e, i+1)
		}
	}
	events.await(t, pgnotify.ListenerSlowConsumer, 1)
	got, dropped := 0, 0
	for got+dropped < sent {
		e := event(t, slow)
		if e.Gap != nil {
			if e.Gap.Cause != pgnotify.GapOverflow || got != 1023 {
				t.Errorf("after %d notifications %v", got, e.Gap)
			}
			dropped += int(e.Gap.Dropped)
		} else if got++; e.Payload != fmt.Sprint(got) {
			t.Fatalf("%+v, want %d", e, got)
		}
	}
	if got != 1023 || dropped != sent-1023 {
		t.Errorf("%d notifications, and %d dropped, of %d", got, dropped, sent)
	}
	notify(t, db, channel, "after")
	if e := event(t, slow); e.Payload != "after" {
		t.Errorf("%+v", e)
	}
	if stats := l.Stats(); stats.Dropped != uint64(dropped) {
		t.Errorf("%+v", stats)
	}
}

// L20: closed twice, concurrently, from a handler: one terminal event.
func TestListenerCloses(t *testing.T) {
	t.Parallel()
	var l *pgnotify.Listener
	made := make(chan struct{})
	closed := newRecorder()
	l, _ = listen(t, dsn(t), func(c *pgnotify.ListenerConfig) {
		c.OnEvent = func(e pgnotify.ListenerEvent) {
			<-made
			if e.Kind == pgnotify.ListenerConnected {
				l.Close()
			}
			closed.record(e)
		}
	})
	close(made)
	sub, err := l.Subscribe(testContext(t), uniqueName("a"))
	if err != nil && !errors.Is(err, pgnotify.ErrClosed) {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { l.Close() })
	}
	all.Wait()
	closed.await(t, pgnotify.ListenerClosed, 1)
	if sub != nil {
		if _, ok := <-sub.Events(); ok || sub.Err() != pgnotify.ErrClosed {
			t.Errorf("open %v, %v", ok, sub.Err())
		}
		sub.Close()
	}
	if _, err := l.Subscribe(testContext(t), "a"); !errors.Is(err, pgnotify.ErrClosed) {
		t.Error(err)
	}
	if _, err := l.Ping(testContext(t)); !errors.Is(err, pgnotify.ErrClosed) {
		t.Error(err)
	}
	if all := closed.all(); all[len(all)-1].Kind != pgnotify.ListenerClosed || len(closed.all(pgnotify.ListenerClosed)) != 1 {
		t.Errorf("%v", all)
	}
}

func TestListenerPing(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn)
		subscribe(t, l, uniqueName("a"), uniqueName("b"))
		health, err := l.Ping(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if health.Channels != 2 || health.PID == 0 || health.InRecovery || health.RoundTrip <= 0 || health.Host == "" {
			t.Errorf("%+v", health)
		}
		terminate(t, db, health.PID)
		events.await(t, pgnotify.ListenerConnected, 2)
		again, err := l.Ping(testContext(t))
		if err != nil || again.PID == health.PID || !again.ConnectedSince.After(health.ConnectedSince) {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

// L14: the first connection never succeeds.
func TestListenerWithoutServer(t *testing.T) {
	t.Parallel()
	port := fmt.Sprint(closedPort(t))
	l, events := listen(t, dsn(t)+" port="+port, quickRetries)
	events.await(t, pgnotify.ListenerReconnecting, 1) // whose error is the last one from now on
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := l.Subscribe(ctx, "a")
	if _, refused := asError[*net.OpError](err); !errors.Is(err, context.DeadlineExceeded) || !refused ||
		!strings.Contains(err.Error(), port) {
		t.Errorf("it does not tell why: %v", err)
	}
}
