//go:build !plan9

package transport

import (
	"errors"
	"os"
	"syscall"
)

// IsSilence reports whether a connection ended because nothing was heard from the other
// side: keepalive or TCP_USER_TIMEOUT gave up, or there is no longer a route to it.
func IsSilence(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, os.ErrDeadlineExceeded)
}

// IsSystemError reports whether err is an error of the operating system, such as a
// reset.
func IsSystemError(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}
