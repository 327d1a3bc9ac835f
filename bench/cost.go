package main

import (
	"runtime"
	"time"
)

// The quantities that measure records, for one operation each.
const (
	cpuMicros  = "cpu"        // processor time of this process, user and system, in µs
	wallMicros = "wall"       // in µs
	allocs     = "allocs"     // objects on the heap
	allocBytes = "bytes"      // on the heap
	goroutines = "goroutines" // started
)

// measure records what f, which does count operations, costs this process. It
// looks before and after, never meanwhile. The heap is collected first, so that
// nobody pays for what another has left; what f itself leaves is collected as
// GOGC says.
func measure(r record, count int, f func() error) error {
	var before, after runtime.MemStats
	runtime.GC()
	created := goroutinesCreated()
	runtime.ReadMemStats(&before)
	start, cpu := time.Now(), cpuTime()

	err := f()

	cpu, wall := cpuTime()-cpu, time.Since(start)
	runtime.ReadMemStats(&after)
	created = goroutinesCreated() - created
	per := func(total float64) float64 { return total / float64(count) }
	r.add(cpuMicros, per(micros(cpu)))
	r.add(wallMicros, per(micros(wall)))
	r.add(allocs, per(float64(after.Mallocs-before.Mallocs)))
	r.add(allocBytes, per(float64(after.TotalAlloc-before.TotalAlloc)))
	r.add(goroutines, per(float64(created)))
	return err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// allocationsLabel is the label of objects taken from the heap.
const allocationsLabel = "allocations"
