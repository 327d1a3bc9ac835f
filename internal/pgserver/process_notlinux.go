//go:build unix && !linux

package pgserver

import "syscall"

// endWithParent does nothing here: the janitor stops the child.
func endWithParent(*syscall.SysProcAttr) {}
