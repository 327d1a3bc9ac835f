//go:build !unix

package main

import "time"

// cpuTime returns 0: processor time is measured on Unix only.
func cpuTime() time.Duration { return 0 }
