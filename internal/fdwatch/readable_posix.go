//go:build unix && !linux

package fdwatch

import "golang.org/x/sys/unix"

// ask reports whether a descriptor is ready as asked, without blocking.
func ask(fd *unix.PollFd) bool {
	n, err := unix.Poll([]unix.PollFd{*fd}, 0)
	return err == nil && n > 0
}
