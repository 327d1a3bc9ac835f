package pgnotify_test

import (
	"context"
	"database/sql/driver"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A cloggedConn is a socket whose peer does not read any more, from when it is
// clogged: a write waits for its deadline. As a socket it can be watched.
type cloggedConn struct {
	net.Conn
	socket  syscall.Conn
	full    net.Conn // a pipe that nobody reads
	clogged bool
}

func (c *cloggedConn) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

func (c *cloggedConn) Write(p []byte) (int, error) {
	if c.clogged {
		return c.full.Write(p)
	}
	return c.Conn.Write(p)
}

func (c *cloggedConn) SetWriteDeadline(t time.Time) error {
	_ = c.full.SetWriteDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

// Promise 9: where the server may not have read all that was sent to it, closing the
// session does not wait for the goodbye to be sent. So it is after a COPY that failed:
// the server answers before it has read the rest of the data.
func TestCloseAfterAFailureDoesNotWait(t *testing.T) {
	t.Parallel()
	var socket *cloggedConn
	s := take(t, open(t, dsn(t), func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			full, other := net.Pipe()
			t.Cleanup(func() { full.Close(); other.Close() })
			socket = &cloggedConn{Conn: conn, socket: conn.(syscall.Conn), full: full}
			return socket, nil
		}
	}))
	mustExec(t, s, "begin")
	if _, err := s.ExecContext(testContext(t), "select 1/0"); err == nil {
		t.Fatal("no error")
	}
	socket.clogged = true
	recv(t, async(t, func() error { // which fails when it takes long
		return s.Raw(func(dc any) error { return dc.(driver.Conn).Close() })
	}))
}
