//go:build !unix

package fdwatch

import "syscall"

// Readable reports false: this is not implemented on this system.
func Readable(syscall.RawConn) bool { return false }
