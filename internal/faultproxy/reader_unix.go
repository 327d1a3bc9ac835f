//go:build unix

package faultproxy

import (
	"io"
	"net"
	"syscall"
	"time"
)

// A reader reads from a client. Over a Unix socket it peeks first and reads later: the
// other side sees a reset if a socket is closed with unread data.
type reader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil for TCP
	leave bool            // take leaves a byte unread, for a reset
	left  int             // bytes that were left
}

func newReader(conn net.Conn) *reader {
	r := &reader{conn: conn}
	if socket, ok := conn.(*net.UnixConn); ok {
		r.raw, _ = socket.SyscallConn()
	}
	return r
}

// look returns what the client has sent next. While a byte is left unread it polls,
// because readiness is no news then.
func (r *reader) look(p []byte) (n int, err error) {
	if r.raw == nil {
		return r.conn.Read(p)
	}
	for n, err = r.peek(p); err == nil && n == r.left; n, err = r.peek(p) {
		time.Sleep(time.Millisecond)
	}
	return copy(p, p[r.left:n]), err
}

// peek returns what is unread, and leaves it there.
func (r *reader) peek(p []byte) (n int, err error) {
	readErr := r.raw.Read(func(fd uintptr) bool {
		for err = syscall.EINTR; err == syscall.EINTR; {
			n, _, err = syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK)
		}
		return err != syscall.EAGAIN
	})
	switch {
	case readErr != nil:
		return r.left, readErr
	case err != nil:
		return r.left, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// take reads the n bytes that look returned.
func (r *reader) take(n int) error {
	if r.raw == nil {
		return nil
	}
	n += r.left
	if r.left = 0; r.leave {
		r.left = 1
	}
	_, err := io.CopyN(io.Discard, r.conn, int64(n-r.left))
	return err
}
