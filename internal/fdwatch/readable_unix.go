//go:build unix

package fdwatch

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A Probe looks whether a socket has something to read. It allocates nothing
// after NewProbe. It is used by one goroutine at a time, and does not own the
// socket.
type Probe struct {
	raw      syscall.RawConn
	look     func(fd uintptr) // poll, bound once
	fds      [1]unix.PollFd
	readable bool
}

// NewProbe returns a probe for conn, nil where conn cannot be asked.
func NewProbe(conn syscall.Conn) *Probe {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	p := &Probe{raw: raw}
	p.look = p.poll
	return p
}

// Readable reports whether a read of the socket would return at once: with
// bytes, with the end of the stream or with an error. It does not read, and
// does not block. A socket that was closed on our side is not readable.
func (p *Probe) Readable() bool {
	p.readable = false
	return p.raw.Control(p.look) == nil && p.readable
}

func (p *Probe) poll(fd uintptr) {
	p.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(p.fds[:], 0)
	p.readable = err == nil && n > 0
}
