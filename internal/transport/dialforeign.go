package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// maxLeft is how many calls of DialContext may outlive their contexts.
const maxLeft = 100

// A dialing is a call of DialContext.
type dialing struct {
	conn     net.Conn
	err      error
	panicked any
}

var errDialEnded = errors.New("DialContext has ended its goroutine")

// callDialContext calls DialContext and returns when it does or, a moment later, ctx. A
// DialContext that does not know contexts, such as one that calls ssh.Client.Dial, is
// left behind; the connection that it may still return is closed.
func (d *Dialer) callDialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Left != nil && d.Left.Load() >= maxLeft {
		return nil, fmt.Errorf("%d calls of DialContext have not returned although their contexts ended", maxLeft)
	}
	done, gaveUp := make(chan dialing), make(chan struct{})
	go func() { // ends when DialContext does
		call := dialing{err: errDialEnded}
		defer func() {
			call.panicked = recover()
			select {
			case done <- call:
			case <-gaveUp:
				d.left(-1)
				if call.conn != nil {
					_ = call.conn.Close()
				}
			}
		}()
		call.conn, call.err = d.DialContext(ctx, network, address)
	}()
	select {
	case call := <-done:
		return call.result()
	case <-ctx.Done():
	}
	select {
	case call := <-done:
		return call.result()
	case <-time.After(closeTime):
		d.left(1)
		close(gaveUp)
		return nil, ctx.Err()
	}
}

// left counts the calls that were left behind.
func (d *Dialer) left(change int32) {
	if d.Left != nil {
		d.Left.Add(change)
	}
}

// result is what DialContext has returned. Its panic is the caller's.
func (c dialing) result() (net.Conn, error) {
	if c.panicked != nil {
		panic(c.panicked)
	}
	return c.conn, c.err
}
