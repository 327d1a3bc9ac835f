//go:build unix

package fdwatch

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Readable reports whether a read of the socket would return at once: with
// bytes, with the end of the stream or with an error. It does not read, and
// does not block. A socket that cannot be asked counts as not readable.
func Readable(conn syscall.Conn) (readable bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds[:], 0)
		readable = err == nil && n > 0
	})
	return err == nil && readable
}
