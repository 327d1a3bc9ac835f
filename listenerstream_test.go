package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// L3: the session lives, but does not listen any more.
func TestListenThatGotLost(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		sessions := make(chan *pgnotify.Conn, 1)
		c := connector(t, dsn, func(c *pgnotify.Config) {
			c.OnConnect = func(_ context.Context, conn *pgnotify.Conn) error { sessions <- conn; return nil }
		})
		l, events := listenBy(t, c, func(c *pgnotify.ListenerConfig) { c.Heartbeat = 20 * time.Millisecond })
		a, b := uniqueName("a"), uniqueName("b")
		sub, other := subscribe(t, l, a, b), subscribe(t, l, b)
		conn := <-sessions
		unlisten := func(channels ...string) {
			t.Helper()
			until(t, "no heartbeat is under way", func() bool {
				err := conn.Unlisten(testContext(t), channels...)
				if err != nil && !errors.Is(err, pgnotify.ErrBusy) {
					t.Fatal(err)
				}
				return err == nil
			})
		}
		unlisten(a)
		events.await(t, pgnotify.ListenerGap, 1)
		notify(t, db, a, "1")
		if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
			t.Errorf("%+v", gap)
		}
		if e := event(t, sub); e.Payload != "1" {
			t.Errorf("%+v", e)
		}
		unlisten()
		events.await(t, pgnotify.ListenerGap, 2)
		notify(t, db, b, "2")
		for _, s := range []*pgnotify.Subscription{sub, other} { // one gap, also for two channels
			if gap := event(t, s).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
				t.Errorf("%+v", gap)
			}
			if e := event(t, s); e.Payload != "2" {
				t.Errorf("%+v", e)
			}
		}
		if lost := events.all(pgnotify.ListenerDisconnected); len(lost) > 0 {
			t.Errorf("%v", lost)
		}
	})
}

// L17: a consumer that never reads holds up nobody.
func TestConsumerThatNeverReads(t *testing.T) { eachTaking(t, testConsumerThatNeverReads) }

func testConsumerThatNeverReads(t *testing.T) {
	const sent = 100_000
	db := open(t, dsn(t))
	l, _ := listen(t, dsn(t))
	channel := uniqueName("a")
	never := subscribe(t, l, channel)
	fast := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: sent + 1})
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, $2) i", channel, sent)
	for i := range sent {
		if e := event(t, fast); e.Payload != fmt.Sprint(i+1) {
			t.Fatalf("%+v, want %d", e, i+1)
		}
	}
	if _, err := l.Ping(testContext(t)); err != nil {
		t.Error(err)
	}
	subscribe(t, l, uniqueName("b")).Close()
	seen, dropped := 0, 0
	for seen+dropped < sent {
		if e := event(t, never); e.Gap != nil {
			dropped += int(e.Gap.Dropped)
		} else {
			seen++
		}
	}
	if seen != 1023 || seen+dropped != sent {
		t.Errorf("%d seen and %d dropped of %d", seen, dropped, sent)
	}
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, 2000) i", channel)
	if err := l.Close(); err != nil { // with two full queues
		t.Error(err)
	}
}

func TestOverflowDropOldest(t *testing.T) {
	t.Parallel()
	const sent = 1000
	db := open(t, dsn(t))
	l, _ := listen(t, dsn(t))
	channel, other := uniqueName("a"), uniqueName("b")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 10, Overflow: pgnotify.OverflowDropOldest})
	after := subscribe(t, l, other)
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, $2) i", channel, sent)
	notify(t, db, other, "all are there")
	event(t, after)
	kept, gaps := 0, 0
	for next := 1; next <= sent; {
		e := event(t, sub)
		if e.Gap == nil {
			if e.Payload != fmt.Sprint(next) {
				t.Fatalf("%+v, want %d", e, next)
			}
			kept++
			next++
			continue
		}
		if e.Gap.Cause != pgnotify.GapOverflow {
			t.Errorf("%+v", e)
		}
		gaps++
		next += int(e.Gap.Dropped)
	}
	// The newest are kept, and one event which was out of the queue already, which may
	// be a gap.
	if kept < 1 || kept > 10 || gaps < 1 || gaps > 2 {
		t.Errorf("%d notifications and %d gaps", kept, gaps)
	}
}

// The gap of those that were dropped goes back to when the oldest of them came.
func TestGapOfTheOldest(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	l, _ := listen(t, dsn(t))
	channel := uniqueName("a")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 4, Overflow: pgnotify.OverflowDropOldest})
	began := time.Now()
	for i := range 2 { // one is out of the queue, one in it
		notify(t, db, channel, fmt.Sprint(i))
	}
	until(t, "both have come", func() bool { return l.Stats().Delivered == 2 })
	came := time.Now()
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(2, 5) i", channel)
	until(t, "an overflow", func() bool { return l.Stats().Dropped > 0 })
	for {
		if gap := event(t, sub).Gap; gap != nil {
			if gap.From.After(came) || gap.From.Before(began) {
				t.Errorf("it begins %v after the oldest", gap.From.Sub(came))
			}
			return
		}
	}
}

// A gap that tells of an overflow and of a lost session begins when the first of
// either can have been missed.
func TestGapOfOverflowAndReconnect(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	l, events := listen(t, dsn(t), quickRetries)
	channel := uniqueName("a")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 2})
	began := time.Now() // no heartbeat has been answered since the session began
	for i := range 2 {
		notify(t, db, channel, fmt.Sprint(i)) // 0, and a gap
	}
	until(t, "a gap in the last place", func() bool { return l.Stats().Gaps == 1 })
	notify(t, db, channel, "2")
	until(t, "another drop", func() bool { return l.Stats().Dropped == 2 })
	terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
	events.await(t, pgnotify.ListenerConnected, 2)
	if e := event(t, sub); e.Payload != "0" {
		t.Errorf("%+v", e)
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapOverflow || gap.Dropped != 1 {
		t.Errorf("%+v", gap)
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapReconnect || gap.Dropped != 1 || gap.From.After(began) {
		t.Errorf("%+v, the session began before %v", gap, began)
	}
}

func TestOverflowDisconnect(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	l, events := listen(t, dsn(t))
	channel := uniqueName("a")
	sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 10, Overflow: pgnotify.OverflowDisconnect})
	mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, 100) i", channel)
	events.await(t, pgnotify.ListenerSlowConsumer, 1)
	seen := 0
	for n, err := range sub.All(testContext(t)) {
		if err != nil {
			if !errors.Is(err, pgnotify.ErrSlowConsumer) {
				t.Error(err)
			}
			break
		}
		if seen++; n.Payload != fmt.Sprint(seen) {
			t.Errorf("%+v, want %d", n, seen)
		}
	}
	if seen != 9 || sub.Err() != pgnotify.ErrSlowConsumer {
		t.Errorf("%d seen, %v", seen, sub.Err())
	}
	if health, err := l.Ping(testContext(t)); err != nil || health.Channels != 0 {
		t.Errorf("%+v, %v", health, err)
	}
}

func TestSubscriptionAll(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn)
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		notify(t, db, channel, "1", "2", "3")
		for n, err := range sub.All(testContext(t)) {
			if err != nil || n.Payload != "1" {
				t.Errorf("%v, %v", n, err)
			}
			break // loses nothing
		}
		until(t, "they have come", func() bool { return l.Stats().Queued == 2 })
		terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
		events.await(t, pgnotify.ListenerConnected, 2)
		notify(t, db, channel, "4")
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		var got []string
		for n, err := range sub.All(ctx) {
			gap, isGap := asError[*pgnotify.GapError](err)
			switch {
			case isGap:
				got = append(got, gap.Gap.Cause.String())
			case err != nil:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			default:
				if got = append(got, n.Payload); n.Payload == "4" {
					cancel()
				}
			}
		}
		if want := fmt.Sprint([]string{"2", "3", pgnotify.GapReconnect.String(), "4"}); fmt.Sprint(got) != want {
			t.Errorf("%v, want %v", got, want)
		}
		sub.Close()
		for _, err := range sub.All(testContext(t)) {
			if !errors.Is(err, pgnotify.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

// The probe of a session that hears.
func TestDeliveryProbe(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, _ := listen(t, dsn, func(c *pgnotify.ListenerConfig) { c.DeliveryProbe = true })
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		notify(t, db, channel, "x")
		if e := event(t, sub); e.Payload != "x" {
			t.Errorf("%+v", e)
		}
		if health, err := l.Ping(testContext(t)); err != nil || health.Channels != 1 {
			t.Errorf("%+v, %v", health, err)
		}
	})
}
