package transport

import (
	"errors"
	"os"
	"syscall"
)

// IsSilence reports whether a connection ended because nothing was heard from the
// other side.
func IsSilence(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded)
}

// IsSystemError reports whether err is one of the system's.
func IsSystemError(err error) bool {
	var text syscall.ErrorString
	return errors.As(err, &text)
}
