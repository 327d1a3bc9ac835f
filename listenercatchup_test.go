package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// L9: CatchUp is called at the start and for a gap, again while it fails, and what
// comes meanwhile waits behind it.
func TestCatchUp(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn, quickRetries)
		channel := uniqueName("a")
		calls := make(chan pgnotify.Gap)
		answers := make(chan error)
		sub := subscribeWith(t, l, pgnotify.SubscriptionConfig{
			Channels: []string{channel},
			CatchUp: func(ctx context.Context, gap pgnotify.Gap) error {
				calls <- gap
				return <-answers
			},
		})
		catchUp := func(cause pgnotify.GapCause) {
			t.Helper()
			for _, err := range []error{errors.New("no"), errors.New("not yet"), nil} {
				if gap := <-calls; gap.Cause != cause {
					t.Errorf("%v, want %v", gap, cause)
				}
				notify(t, db, channel, fmt.Sprint(err))
				select {
				case e := <-sub.Events():
					t.Errorf("%+v before CatchUp has succeeded", e)
				default:
				}
				answers <- err
			}
			for _, want := range []string{"no", "not yet", "<nil>"} {
				if e := event(t, sub); e.Payload != want || e.Gap != nil {
					t.Errorf("%+v, want %s", e, want)
				}
			}
		}
		catchUp(pgnotify.GapSubscribed)
		terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
		events.await(t, pgnotify.ListenerConnected, 2)
		catchUp(pgnotify.GapReconnect)
	})
}

// A CatchUp may close its subscription and its Listener, and panic.
func TestCatchUpThatEndsIt(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(l *pgnotify.Listener, ctx context.Context){
		"Listener": func(l *pgnotify.Listener, _ context.Context) { l.Close() },
		"blocked": func(l *pgnotify.Listener, ctx context.Context) {
			go l.Close()
			<-ctx.Done()
		},
		"panic":  func(l *pgnotify.Listener, _ context.Context) { panic("no") },
		"Goexit": func(*pgnotify.Listener, context.Context) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := listen(t, dsn(t), quickRetries)
			var calls atomic.Int32
			sub, err := l.SubscribeConfig(testContext(t), pgnotify.SubscriptionConfig{
				Channels: []string{uniqueName("a")},
				CatchUp: func(ctx context.Context, _ pgnotify.Gap) error {
					if calls.Add(1) > 1 {
						l.Close()
					} else {
						end(l, ctx)
					}
					return nil
				},
			})
			if err != nil { // CatchUp was faster than Subscribe
				if !errors.Is(err, pgnotify.ErrClosed) {
					t.Fatal(err)
				}
			} else if _, ok := <-sub.Events(); ok || sub.Err() != pgnotify.ErrClosed {
				t.Errorf("open %v, %v", ok, sub.Err())
			}
			if n := calls.Load(); n != 1 && name != "panic" || n > 2 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// L9: a CatchUp that has failed twice waits like an attempt to reconnect.
func TestCatchUpThatFailsIsNotHurried(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, dsn(t), func(c *pgnotify.ListenerConfig) { c.MinBackoff = time.Hour })
	calls := make(chan struct{}, 100)
	subscribeWith(t, l, pgnotify.SubscriptionConfig{
		Channels: []string{uniqueName("a")},
		CatchUp: func(context.Context, pgnotify.Gap) error {
			select {
			case calls <- struct{}{}:
			default:
			}
			return errors.New("not now")
		},
	})
	recv(t, calls)
	recv(t, calls) // at once
	select {
	case <-calls:
		t.Error("a third call did not wait for up to an hour")
	case <-time.After(200 * time.Millisecond): // for it to come
	}
}
