//go:build !linux

package transport

import (
	"syscall"
	"time"
)

// setUserTimeout does nothing: the option is Linux's. libpq also ignores the
// setting where there is none.
func setUserTimeout(syscall.RawConn, time.Duration) error { return nil }
