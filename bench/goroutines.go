package main

import (
	"fmt"
	"runtime"
	"runtime/metrics"
)

// createdMetric counts all goroutines started so far, from Go 1.26 on.
const createdMetric = "/sched/goroutines-created:goroutines"

// goroutinesCreated returns how many goroutines have been started: two calls
// tell how many between them. Asking for the number that exist, again and again,
// would miss those that live for microseconds, and disturb.
func goroutinesCreated() int64 {
	sample := []metrics.Sample{{Name: createdMetric}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		return int64(sample[0].Value.Uint64())
	}
	return newestGoroutine()
}

// The runtime numbers goroutines in the order of their creation, except that
// each processor takes its numbers idBatch at a time.
const idBatch = 16

// newestGoroutine returns about how many goroutines have been started: two calls
// are wrong by idBatch for each processor at most, and count those of the first
// call. The first idBatch goroutines may get what is left of an old batch, so it
// starts some more and takes the highest number.
func newestGoroutine() int64 {
	ids := make(chan int64)
	for range 2 * idBatch {
		go func() { ids <- goroutineID() }() // ended by the loop below
	}
	var newest int64
	for range 2 * idBatch {
		newest = max(newest, <-ids)
	}
	return newest
}

// goroutineID returns the number that a stack trace begins with.
func goroutineID() (id int64) {
	var stack [64]byte
	n := runtime.Stack(stack[:], false)
	_, _ = fmt.Sscanf(string(stack[:n]), "goroutine %d ", &id)
	return id
}
