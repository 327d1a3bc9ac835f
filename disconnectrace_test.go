package pgnotify_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A deadlineConn calls a function when its read deadline is taken away.
type deadlineConn struct {
	*net.TCPConn
	hook *atomic.Pointer[func()]
}

func (c deadlineConn) SetReadDeadline(t time.Time) error {
	err := c.TCPConn.SetReadDeadline(t)
	if f := c.hook.Load(); f != nil && t.IsZero() {
		(*f)()
	}
	return err
}

// D2, D8: a session that ends while its checkout looks at the socket, and has
// looked already, is known to be lost. Whether the pool learns of it in time to give
// another session does not matter.
func TestEndWhileTheCheckoutLooks(t *testing.T) {
	t.Parallel()
	say, end := make(chan struct{}), make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
		pgfake.Send(pgfake.Error("ERROR", "22P02", "no"), pgfake.Ready('I')), pgfake.WaitFor(say),
		pgfake.Send(pgfake.Parameter("TimeZone", "UTC")), pgfake.WaitFor(end)})
	var hook atomic.Pointer[func()]
	var socket watchedSocket
	lost := make(chan struct{}, 2)
	db := open(t, fake.DSN(), socket.option, func(c *pgnotify.Config) {
		c.OnDisconnect = func(*pgnotify.Conn, *pgnotify.DisconnectError) { lost <- struct{}{} }
		dial := c.DialContext
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return deadlineConn{conn.(*net.TCPConn), &hook}, nil
		}
	})
	first := take(t, db)
	if _, err := first.ExecContext(testContext(t), "x"); err == nil { // so the next checkout looks, however soon
		t.Fatal("no error")
	}
	first.Close()
	close(say)
	until(t, "the parameter has arrived", socket.readable)
	looked := func() {
		hook.Store(nil)
		close(end)
		time.Sleep(50 * time.Millisecond) // for the goroutine that hears of the end to come too early
	}
	hook.Store(&looked)
	take(t, db)
	recv(t, lost)
}
