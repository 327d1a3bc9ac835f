package pgnotify_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A hookedConn is a socket whose next write can be made to fail.
type hookedConn struct {
	net.Conn
	hook *writeHook
}

// A writeHook writes in place of its connection, once.
type writeHook struct {
	next atomic.Pointer[func(c net.Conn, p []byte) (int, error)]
}

// set has f do the next write.
func (h *writeHook) set(f func(c net.Conn, p []byte) (int, error)) { h.next.Store(&f) }

func (h *writeHook) option(c *pgnotify.Config) {
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &hookedConn{conn, h}, nil
	}
}

func (c *hookedConn) Write(p []byte) (int, error) {
	if f := c.hook.next.Swap(nil); f != nil {
		return (*f)(c.Conn, p)
	}
	return c.Conn.Write(p)
}

// SyscallConn is there because pgnotify looks at idle sockets.
func (c *hookedConn) SyscallConn() (syscall.RawConn, error) {
	return c.Conn.(syscall.Conn).SyscallConn()
}

// pooled are the kinds of requests that database/sql may try again; of a ping it
// tries only the checkout again.
func pooled(f func(name string, q request)) {
	for _, name := range []string{
		"exec", "exec of two", "exec with arguments", "query row", "query row with arguments", "query",
		"query with arguments", "prepare", "begin", "prepared exec", "prepared query",
	} {
		q, ok := requests[name]
		if !ok {
			panic(name)
		}
		f(name, q)
	}
}

// writeStale writes to a server that is gone: it went between the check at
// checkout, which saw nothing, and the write. Of that 0 bytes are taken.
func writeStale(r *rig) func(c net.Conn, p []byte) (int, error) {
	return func(c net.Conn, p []byte) (int, error) {
		r.proxy.Cut(true)
		_, _ = c.Read(make([]byte, 1)) // returns when the end has arrived
		n, err := c.Write(p)
		if n != 0 || err == nil {
			panic(fmt.Sprintf("%d bytes were written: %v", n, err))
		}
		return n, err
	}
}

// D14: a write that failed with 0 bytes on a stale session is tried again in
// silence, and executed once.
func TestWriteToAStaleSession(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		var hook writeHook
		r := newRig(hook.option)
		pooled(func(name string, q request) {
			t.Run(name, func(t *testing.T) {
				r.fresh(t)
				ask, after := q.ready(t, testContext(t), r)
				hook.set(writeStale(r))
				if err := ask(); err != nil {
					t.Errorf("not tried again: %v", err)
				}
				after()
				if n := r.count(t); n != q.marks {
					t.Errorf("%d marks, want %d", n, q.marks)
				}
				if r.more() != 1 {
					t.Errorf("%d more sessions", r.more())
				}
			})
		})
	})
}

// D14: in a transaction nothing is tried again, although nothing was sent.
func TestWriteToAStaleSessionInATransaction(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		var hook writeHook
		r := newRig(hook.option)
		for _, name := range []string{"exec in a transaction", "query in a transaction", "commit", "rollback", "copy"} {
			t.Run(name, func(t *testing.T) {
				r.fresh(t)
				ask, after := requests[name].ready(t, testContext(t), r)
				hook.set(writeStale(r))
				err := ask()
				lost, ok := asError[*pgnotify.DisconnectError](err)
				if !ok || lost.Sent || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("%v", err)
				}
				after()
				if n := r.count(t); n != 0 || r.more() != 0 {
					t.Errorf("%d marks, %d more sessions", n, r.more())
				}
			})
		}
	})
}

// writePart writes a part of the message, and fails.
func writePart(part func(size int) int) func(c net.Conn, p []byte) (int, error) {
	return func(c net.Conn, p []byte) (int, error) {
		n, err := c.Write(p[:part(len(p))])
		if err == nil {
			err = syscall.EPIPE
		}
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		return n, err
	}
}

// D14: of a message that failed half-way a part is out, so it is not tried again.
// Under TLS, too, where the part of a record counts for nothing to the layer
// above it.
func TestPartialWrite(t *testing.T) {
	for when, part := range map[string]func(size int) int{
		"after the first byte":     func(int) int { return 1 },
		"before the last byte":     func(size int) int { return size - 1 },
		"when all of it was taken": func(size int) int { return size },
	} {
		t.Run(when, func(t *testing.T) {
			eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
				var hook writeHook
				r := newRig(hook.option)
				pooled(func(name string, q request) {
					t.Run(name, func(t *testing.T) {
						r.fresh(t)
						ask, after := q.ready(t, testContext(t), r)
						hook.set(writePart(part))
						err := ask()
						lost, ok := asError[*pgnotify.DisconnectError](err)
						if !ok || !lost.Sent || lost.Reason != pgnotify.PeerClosed || errors.Is(err, driver.ErrBadConn) {
							t.Errorf("%v", err)
						}
						after()
						if r.more() != 0 {
							t.Fatalf("%d more sessions, %d marks", r.more(), r.count(t))
						}
						want := 0
						if part(100) == 100 && q.skip == 0 { // the server has it all
							want = q.marks
						}
						until(t, "the server has done what it got", func() bool { return r.count(t) >= want })
						if n := r.count(t); n != want {
							t.Errorf("%d marks, want %d", n, want)
						}
					})
				})
			})
		})
	}
}

// D14: a write that fails with 0 bytes, on a connection that can still be read.
func TestWriteOfNothing(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		var hook writeHook
		r := newRig(hook.option)
		pooled(func(name string, q request) {
			t.Run(name, func(t *testing.T) {
				r.fresh(t)
				ask, after := q.ready(t, testContext(t), r)
				hook.set(writePart(func(int) int { return 0 }))
				if err := ask(); err != nil {
					t.Errorf("not tried again: %v", err)
				}
				after()
				if n := r.count(t); n != q.marks || r.more() != 1 {
					t.Errorf("%d marks, want %d; %d more sessions", n, q.marks, r.more())
				}
			})
		})
	})
}
