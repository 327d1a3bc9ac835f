package pgnotify_test

import (
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
			l, _ := listen(t, pgfake.Start(t, script).DSN()+silence.parameters)
			recv(t, reached)
			closeAtOnce(t, l)
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
		l, _ := listenBy(t, connector(t, dsn(t), noDial))
		recv(t, dial)
		closeAtOnce(t, l)
	})
	t.Run("backoff", func(t *testing.T) {
		t.Parallel()
		l, events := listen(t, fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable", closedPort(t)), func(c *pgnotify.ListenerConfig) {
			c.MinBackoff, c.MaxBackoff = time.Hour, time.Hour
		})
		events.await(t, pgnotify.ListenerReconnecting, 2)
		closeAtOnce(t, l)
	})
	answer := pgfake.Send(pgfake.Complete("LISTEN"), pgfake.Ready('I'))
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
			l, _ := listen(t, pgfake.Start(t, script).DSN(), func(c *pgnotify.ListenerConfig) {
				c.Heartbeat, c.HeartbeatTimeout = 10*time.Millisecond, time.Hour
			})
			subscribeLater(t, l, "a")
			recv(t, reached)
			closeAtOnce(t, l)
		})
	}
	t.Run("a LISTEN that nobody reads", func(t *testing.T) {
		t.Parallel()
		reached := make(chan struct{}, 100)
		fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), func(*pgfake.Session) error { reached <- struct{}{}; return nil }, pgfake.Hang()})
		l, _ := listenBy(t, connector(t, fake.DSN(), func(c *pgnotify.Config) {
			c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					err = conn.(*net.TCPConn).SetWriteBuffer(1 << 14)
				}
				return conn, err
			}
		}))
		channels := make([]string, 20_000)
		for i := range channels {
			channels[i] = fmt.Sprintf("%063d", i)
		}
		subscribeLater(t, l, channels...)
		recv(t, reached)
		time.Sleep(50 * time.Millisecond) // so that the write is under way
		closeAtOnce(t, l)
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

// closeAtOnce closes a Listener, which should take less than 100 ms.
func closeAtOnce(t testing.TB, l *pgnotify.Listener) {
	t.Helper()
	began := time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	if took > 100*time.Millisecond {
		t.Logf("Close took %v", took)
	}
	if took > time.Second {
		t.Errorf("Close took %v", took)
	}
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
