package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

func TestSubscriptionWake(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn)
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		ctx := testContext(t)
		wake := func(maxWait time.Duration) error {
			t.Helper()
			start := time.Now()
			err := sub.Wake(ctx, maxWait)
			if waited := time.Since(start); err == nil && maxWait < time.Second && waited < maxWait && l.Stats().Queued == 0 {
				t.Logf("woken after %v of %v", waited, maxWait)
			}
			return err
		}
		if err := wake(time.Millisecond); err != nil { // the timer
			t.Error(err)
		}
		mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, 100) i", channel)
		until(t, "they have come", func() bool { return l.Stats().Queued == 100 })
		if err := wake(time.Hour); err != nil {
			t.Error(err)
		}
		if n := l.Stats().Queued; n != 0 {
			t.Errorf("%d are left of a burst", n)
		}
		go func() { _ = pgnotify.Notify(ctx, db, channel, "x") }()
		if err := wake(time.Hour); err != nil {
			t.Error(err)
		}
		terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
		if err := wake(time.Hour); err != nil { // the gap
			t.Error(err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := sub.Wake(ended, time.Hour); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go sub.Close()
		if err := wake(time.Hour); !errors.Is(err, pgnotify.ErrClosed) {
			t.Error(err)
		}
	})
}

// A burst wakes a worker once or a few times, and is then out of the queue.
func TestWakeFoldsABurst(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		const burst = 1000
		l, _ := listen(t, dsn)
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		ctx, stop := context.WithCancel(testContext(t))
		defer stop()
		wakes := 0
		done := async(t, func() error {
			for {
				if err := sub.Wake(ctx, time.Hour); err != nil {
					return err
				}
				wakes++
			}
		})
		mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, $2) i", channel, burst)
		until(t, "all have come, and the queue is empty", func() bool {
			stats := l.Stats()
			return stats.Delivered == burst && stats.Queued == 0
		})
		stop()
		if err := recv(t, done); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		t.Logf("woken %d times", wakes)
		if wakes < 1 || wakes > burst/20 {
			t.Errorf("%d notifications wake %d times", burst, wakes)
		}
	})
}
