//go:build !unix

package fdwatch

import "syscall"

// Readable reports false: this is not implemented on this system.
func Readable(syscall.Conn) bool { return false }
