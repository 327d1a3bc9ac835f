package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A dying is a connector with sessions that do not live.
type dying struct {
	driver.Connector
	attempts atomic.Int64
	kill     func(driver.Conn)
}

func (d *dying) Connect(ctx context.Context) (driver.Conn, error) {
	d.attempts.Add(1)
	c, err := d.Connector.Connect(ctx)
	if err == nil {
		d.kill(c)
	}
	return c, err
}

// L13: sessions that are dead when they come, or die as soon as they listen, or
// a moment later, do not have the Listener hurry.
func TestListenerWithDeadSessionsIsNotHot(t *testing.T) {
	t.Parallel()
	listens := func(after time.Duration) pgfake.Script {
		return pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"),
			func(*pgfake.Session) error { time.Sleep(after); return nil }}
	}
	for name, script := range map[string]pgfake.Script{
		"accepted":        {},
		"greeted":         {pgfake.Greet()},
		"ends at LISTEN":  {pgfake.Greet(), pgfake.Await('Q')},
		"listens":         listens(0),
		"listens shortly": listens(100 * time.Millisecond), // longer than the first waits
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, dsn := scripted(t, script)
			l, events := listen(t, dsn, slowly)
			wantFewAttempts(t, l, events, fake.Sessions)
		})
	}
	for name, kill := range map[string]func(*testing.T, *sql.DB) func(driver.Conn){
		"closed": func(*testing.T, *sql.DB) func(driver.Conn) {
			return func(c driver.Conn) { c.Close() }
		},
		"terminated": func(t *testing.T, db *sql.DB) func(driver.Conn) {
			return func(c driver.Conn) {
				pid := c.(*pgnotify.Conn).PID()
				_, _ = db.ExecContext(testContext(t), "select pg_terminate_backend($1)", pid)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &dying{Connector: connector(t, dsn(t)), kill: kill(t, open(t, dsn(t)))}
			l, events := listenBy(t, d, slowly)
			wantFewAttempts(t, l, events, func() int { return int(d.attempts.Load()) })
		})
	}
}

// slowly has a Listener wait for up to 20 ms before its second attempt, and for up to
// 200 ms from the sixth on.
func slowly(c *pgnotify.ListenerConfig) {
	c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
}

// wantFewAttempts checks that a Listener makes no attempts but those that it tells of,
// and waits before them, longer and longer.
func wantFewAttempts(t *testing.T, l *pgnotify.Listener, events *recorder, attempts func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := async(t, func() error {
		sub, err := l.Subscribe(ctx, "a")
		if err == nil {
			context.AfterFunc(ctx, sub.Close)
		}
		return err
	})
	events.await(t, pgnotify.ListenerReconnecting, 8)
	made := attempts()
	told := events.all()
	cancel()
	if err := recv(t, done); err != nil && (!errors.Is(err, context.Canceled) || !pgnotify.IsDisconnect(err) && !isClosed(err)) {
		t.Errorf("it does not tell why: %v", err)
	}
	wantGrowing(t, told)
	if n := len(events.all(pgnotify.ListenerReconnecting)); made > n+1 {
		t.Errorf("%d attempts, and %d were told", made, n)
	}
}

// wantGrowing checks the delays that a Listener tells of, and keeps, while no session
// lives for as long as a good one.
func wantGrowing(t *testing.T, events []pgnotify.ListenerEvent) {
	t.Helper()
	const good = time.Second
	var last pgnotify.ListenerEvent
	for _, e := range events {
		if e.Kind != pgnotify.ListenerReconnecting {
			continue
		}
		lived := e.Time.Sub(last.Time) - last.Delay // and how long it took to connect
		switch {
		case last.Kind != 0 && lived < 0:
			t.Errorf("%v comes %v too early after %v", e, -lived, last)
		case e.Attempt == last.Attempt+1: // from 1 on
		case lived <= good:
			t.Errorf("%v follows %v, after a session of less than %v", e, last, lived)
		}
		if (e.Delay == 0) != (e.Attempt == 1) {
			t.Errorf("%v: the first attempt waits, or a later one does not", e)
		}
		last = e
	}
}

// L5: a session that has lived for a second is good, however long the outage before it
// was: when it is lost, the first attempt comes at once.
func TestFirstRetryAfterALongOutageComesAtOnce(t *testing.T) {
	eachListener(t, func(t *testing.T, db *sql.DB, dsn string) {
		const good = time.Second
		var down atomic.Bool
		down.Store(true)
		l, events := listenBy(t, &gate{connector(t, dsn), &down}) // after six failures it waits for up to 1.6 s
		events.await(t, pgnotify.ListenerReconnecting, 6)
		down.Store(false)
		pid := events.await(t, pgnotify.ListenerConnected, 1).PID
		since := mustPingListener(t, l).ConnectedSince
		until(t, "the session is a good one", func() bool { return time.Since(since) > good })
		before := len(events.all(pgnotify.ListenerReconnecting))
		terminate(t, db, pid)
		if e := events.await(t, pgnotify.ListenerReconnecting, before+1); e.Attempt != 1 || e.Delay != 0 {
			t.Errorf("%v, after a session of %v", e, e.Time.Sub(since))
		}
	})
}
