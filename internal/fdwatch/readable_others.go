//go:build !unix

package fdwatch

import "syscall"

// A Probe looks whether a socket has something to read.
type Probe struct{}

// NewProbe returns nil: this is not implemented on this system.
func NewProbe(syscall.Conn) *Probe { return nil }

// Readable reports false.
func (*Probe) Readable() bool { return false }
