//go:build unix

package fdwatch

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A question holds what a look needs, and is reused so that looking allocates nothing.
type question struct {
	fd       unix.PollFd
	readable bool
	look     func(fd uintptr)
}

var questions = sync.Pool{New: func() any {
	q := new(question)
	q.look = func(fd uintptr) {
		q.fd = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		q.readable = ask(&q.fd)
	}
	return q
}}

// Readable reports whether a read of the socket would return at once: with bytes, with
// the end of the stream, or with an error. It does not read, and does not block. A
// socket closed on our side is not readable. Readable is safe for concurrent use.
func Readable(socket syscall.RawConn) bool {
	q := questions.Get().(*question)
	defer questions.Put(q)
	q.readable = false
	return socket.Control(q.look) == nil && q.readable
}
