package transport

import (
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout sets TCP_USER_TIMEOUT (tcp(7)), which counts in milliseconds. It
// rounds a fraction up, because zero would mean the kernel's default, and limits the
// value to an int32, 24 days.
func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	ms := int(min((d-1)/time.Millisecond+1, math.MaxInt32))
	var err error
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	}); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return fmt.Errorf("set tcp_user_timeout to %v: %w", d, os.NewSyscallError("setsockopt", err))
	}
	return nil
}
