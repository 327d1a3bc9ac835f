package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// L25: attempts that fail, and events that nobody takes, use no more and more
// memory, and no goroutines: where there is no connection, and where there is no TLS.
func TestListenerThatFailsForLongStaysSmall(t *testing.T) {
	long := errors.New("no way: " + strings.Repeat("x", 10_000))
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"tcp": func(context.Context, string, string) (net.Conn, error) { return nil, fmt.Errorf("today: %w", long) },
		"tls": func(context.Context, string, string) (net.Conn, error) { return &deafToTLS{err: long}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			var made atomic.Int64
			c := connector(t, "host=127.0.0.1 port=1 sslmode="+map[string]string{"tcp": "disable", "tls": "require"}[name], func(c *pgnotify.Config) {
				c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					made.Add(1)
					return dial(ctx, network, address)
				}
			})
			wantSmall(t, c, &made)
		})
	}
}

// wantSmall has a Listener fail hundreds of times, with events that nobody takes.
func wantSmall(t *testing.T, c *pgnotify.Connector, made *atomic.Int64) {
	t.Helper()
	const attempts = 500
	blocked := make(chan struct{})
	events := newRecorder()
	l, _ := listenBy(t, c, func(c *pgnotify.ListenerConfig) {
		c.MinBackoff, c.MaxBackoff = time.Millisecond, time.Millisecond
		c.OnEvent = func(e pgnotify.ListenerEvent) {
			<-blocked
			events.record(e)
		}
	})
	subscribeLater(t, l, "a")
	until(t, "100 attempts", func() bool { return made.Load() >= 300 }) // more than there is room for events
	used, goroutines := heap(), runtime.NumGoroutine()
	until(t, "more attempts", func() bool { return made.Load() >= 300+attempts })
	more, moreGoroutines := heap()-used, runtime.NumGoroutine()-goroutines
	t.Logf("%d more bytes and %d more goroutines after %d more attempts", more, moreGoroutines, attempts)
	if more > 1<<20 || moreGoroutines > 3 {
		t.Errorf("%d more bytes, %d more goroutines", more, moreGoroutines)
	}
	closeAtOnce(t, l)
	close(blocked)
	events.await(t, pgnotify.ListenerClosed, 1)
	if n := len(events.all()); n > 300 {
		t.Errorf("%d events were kept", n)
	}
}

// A deafToTLS is a connection whose other end agrees to TLS, and then fails.
type deafToTLS struct {
	err    error
	agreed atomic.Bool
}

func (c *deafToTLS) Read(p []byte) (int, error) {
	if c.agreed.Swap(true) {
		return 0, c.err
	}
	return copy(p, "S"), nil
}

func (*deafToTLS) Write(p []byte) (int, error)      { return len(p), nil }
func (*deafToTLS) Close() error                     { return nil }
func (*deafToTLS) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*deafToTLS) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*deafToTLS) SetDeadline(time.Time) error      { return nil }
func (*deafToTLS) SetReadDeadline(time.Time) error  { return nil }
func (*deafToTLS) SetWriteDeadline(time.Time) error { return nil }

// A subscriber costs no goroutine, whichever way it takes events.
func TestSubscribersHaveNoGoroutines(t *testing.T) {
	const subscribers = 1000
	for name, take := range map[string]func(t *testing.T, sub *pgnotify.Subscription) pgnotify.Event{
		"All":    func(t *testing.T, sub *pgnotify.Subscription) pgnotify.Event { return event(t, sub) },
		"Events": func(t *testing.T, sub *pgnotify.Subscription) pgnotify.Event { return recv(t, sub.Events()) },
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, dsn(t))
			l, _ := listen(t, dsn(t))
			channel := uniqueName("a")
			all := []*pgnotify.Subscription{subscribe(t, l, channel)}
			exchange := func() {
				notify(t, db, channel, "x")
				for _, sub := range all {
					if e := take(t, sub); e.Payload != "x" {
						t.Fatalf("%+v", e)
					}
				}
			}
			exchange()
			before := runtime.NumGoroutine()
			for len(all) < subscribers {
				all = append(all, subscribe(t, l, channel))
			}
			exchange()
			if more := runtime.NumGoroutine() - before; more > subscribers/20 {
				t.Errorf("%d more goroutines for %d more subscribers", more, subscribers-1)
			}
		})
	}
}
