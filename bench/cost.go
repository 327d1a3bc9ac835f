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

// Labels of costs, and of how they compare.
const (
	allocationsLabel = "allocations" // objects taken from the heap
	cpuRatioLabel    = "CPU, times lib/pq's"
	wallRatioLabel   = "wall time, times lib/pq's"
	pgxRatioLabel    = "wall time, times pgx's"
)

// costMetrics are the lines of what an operation costs, with times in a unit, and
// of how that compares.
func costMetrics(unit string, summary func([]float64) cell) []metric {
	return []metric{
		{label: "CPU, " + unit, quantity: cpuMicros, summary: summary},
		{label: cpuRatioLabel, quantity: cpuMicros, summary: medianOf, base: []string{libpqName}, relate: ratio},
		{label: "wall time, " + unit, quantity: wallMicros, summary: summary},
		{label: wallRatioLabel, quantity: wallMicros, summary: medianOf, base: []string{libpqName}, relate: ratio},
		{label: pgxRatioLabel, quantity: wallMicros, summary: medianOf, base: []string{pgxName, pgxCopyName}, relate: ratio},
		{label: allocationsLabel, quantity: allocs, summary: medianOf},
		{label: "bytes allocated", quantity: allocBytes, summary: medianOf},
	}
}
