package pgnotify_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// L19: Close takes no time, whatever the Listener is doing, and leaves nothing.
func TestListenerClosesAtOnce(t *testing.T) {
	t.Parallel()
	for name, silence := range silences(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{}, 100)
			reach := func(*pgfake.Session) error { reached <- struct{}{}; return nil }
			script := append(slices.Clone(silence.before), reach, pgfake.Drain())
			if name == "chattering" {
				script = append(pgfake.Script{script[0], reach}, silence.before[1:]...)
			}
			dsn := pgfake.Start(t, script).DSN() + silence.parameters
			closesAtOnce(t, func() *pgnotify.Listener {
				l, _ := listen(t, dsn)
				recv(t, reached)
				return l
			})
		})
	}
	dial := make(chan struct{}, 1)
	noDial := func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			dial <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	t.Run("dial", func(t *testing.T) {
		t.Parallel()
		closesAtOnce(t, func() *pgnotify.Listener {
			l, _ := listenBy(t, connector(t, dsn(t), noDial))
			recv(t, dial)
			return l
		})
	})
	t.Run("backoff", func(t *testing.T) {
		t.Parallel()
		dsn := fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable", closedPort(t))
		closesAtOnce(t, func() *pgnotify.Listener {
			l, events := listen(t, dsn, func(c *pgnotify.ListenerConfig) { c.MinBackoff = time.Hour })
			events.await(t, pgnotify.ListenerReconnecting, 2)
			return l
		})
	})
	answer := acknowledged("LISTEN")
	for name, steps := range map[string]pgfake.Script{
		"LISTEN":               {pgfake.Greet(), pgfake.Await('Q')},
		"half an answer to it": {pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(pgfake.Complete("LISTEN"), pgfake.RawFrame('Z', 5, ""))},
		"heartbeat":            {pgfake.Greet(), pgfake.Await('Q'), answer, pgfake.Await('Q')},
		"half a row of it":     {pgfake.Greet(), pgfake.Await('Q'), answer, pgfake.Await('Q'), pgfake.Send(pgfake.Columns("one"), pgfake.RawFrame('D', 100, "\x00\x01"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{}, 100)
			script := append(steps, func(*pgfake.Session) error { reached <- struct{}{}; return nil }, pgfake.Drain())
			dsn := pgfake.Start(t, script).DSN()
			closesAtOnce(t, func() *pgnotify.Listener {
				l, _ := listen(t, dsn, func(c *pgnotify.ListenerConfig) {
					c.Heartbeat, c.HeartbeatTimeout = 10*time.Millisecond, time.Hour
				})
				subscribeLater(t, l, "a")
				recv(t, reached)
				return l
			})
		})
	}
	t.Run("a LISTEN that nobody reads", func(t *testing.T) {
		t.Parallel()
		small := func(c *pgfake.Session) error { return c.Conn.(*net.TCPConn).SetReadBuffer(1 << 14) }
		fake := pgfake.Start(t, pgfake.Script{small, pgfake.Greet(), pgfake.Hang()})
		writing := make(chan struct{}, 100)
		c := connector(t, fake.DSN(), func(c *pgnotify.Config) {
			c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &toldConn{conn, func(p []byte) {
					if bytes.Contains(p, []byte("LISTEN")) {
						writing <- struct{}{}
					}
				}}, conn.(*net.TCPConn).SetWriteBuffer(1 << 14)
			}
		})
		channels := make([]string, 5000) // 365 kB
		for i := range channels {
			channels[i] = fmt.Sprintf("%063d", i)
		}
		closesAtOnce(t, func() *pgnotify.Listener {
			l, _ := listenBy(t, c)
			subscribeLater(t, l, channels...)
			recv(t, writing)
			return l
		})
	})
}

// subscribeLater subscribes on a goroutine that ends with the test, as the Listener
// does.
func subscribeLater(t *testing.T, l *pgnotify.Listener, channels ...string) {
	done := async(t, func() error {
		_, err := l.Subscribe(context.Background(), channels...)
		return err
	})
	t.Cleanup(func() {
		l.Close()
		if err := recv(t, done); err != nil && !errors.Is(err, pgnotify.ErrClosed) {
			t.Errorf("Subscribe: %v", err)
		}
	})
}

// closesAtOnce checks that Close takes less than 100 ms: of one of a few Listeners,
// because the machine is shared.
func closesAtOnce(t testing.TB, open func() *pgnotify.Listener) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		last := closeAtOnce(t, open())
		if last < 100*time.Millisecond {
			return
		}
		took = append(took, last)
	}
	t.Errorf("Close took %v", took)
}

// closeAtOnce closes a Listener, which should take less than 100 ms and must take less
// than a second, and returns how long it took.
func closeAtOnce(t testing.TB, l *pgnotify.Listener) (took time.Duration) {
	t.Helper()
	began := time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if took = time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	return took
}

// L19: a Listener with full queues, over each way to a real server, which has no
// process for it afterwards.
func TestListenerWithFullQueuesClosesAtOnce(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		l, events := listen(t, dsn)
		channel := uniqueName("a")
		for _, overflow := range []pgnotify.OverflowPolicy{pgnotify.OverflowGap, pgnotify.OverflowDropOldest} {
			for _, catchUp := range []func(context.Context, pgnotify.Gap) error{nil, func(ctx context.Context, _ pgnotify.Gap) error {
				<-ctx.Done()
				return ctx.Err()
			}} {
				_, err := l.SubscribeConfig(testContext(t), pgnotify.SubscriptionConfig{
					Channels: []string{channel}, QueueSize: 2, Overflow: overflow, CatchUp: catchUp})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		pid := events.await(t, pgnotify.ListenerConnected, 1).PID
		mustExec(t, db, "select pg_notify($1, repeat('x', 1000) || i) from generate_series(1, 20000) i", channel)
		events.await(t, pgnotify.ListenerSlowConsumer, 1)
		closeAtOnce(t, l)
		until(t, "the server has no process for it", func() bool {
			return !queryValue[bool](t, db, "select exists (select from pg_stat_activity where pid = $1)", pid)
		})
	})
}
