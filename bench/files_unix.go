//go:build unix

package main

import "syscall"

// openFiles returns how many files this process may have open. Go has raised that
// as far as it may before main.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return noLimit
	}
	return int(min(uint64(l.Cur), noLimit))
}
