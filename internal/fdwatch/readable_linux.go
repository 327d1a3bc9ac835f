package fdwatch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ask reports whether a descriptor is ready as asked, without blocking. Because the
// call does not block, it need not tell the scheduler, whose bookkeeping costs more
// than the call.
func ask(fd *unix.PollFd) bool {
	var now unix.Timespec
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fd)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return errno == 0 && n > 0
}
