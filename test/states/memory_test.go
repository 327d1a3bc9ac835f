package states_test

import (
	"context"
	"runtime/metrics"
	"testing"
	"time"
)

// Bounds for all worlds that are played at a time: results of 2 MiB are the largest.
const (
	maxHeap  = 256 << 20
	maxBurst = 512 << 20 // allocated within memoryTick
)

const memoryTick = 20 * time.Millisecond

// watchMemory fails the test when memory grows with what the server has announced.
func watchMemory(ctx context.Context, t *testing.T) (heap uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	ticks := time.NewTicker(memoryTick)
	defer ticks.Stop()
	metrics.Read(samples)
	for ctx.Err() == nil {
		last, began := samples[1].Value.Uint64(), time.Now()
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
		metrics.Read(samples)
		now := samples[0].Value.Uint64()
		heap = max(heap, now)
		burst := samples[1].Value.Uint64() - last
		if late := time.Since(began) / memoryTick; now > maxHeap || burst > maxBurst*uint64(1+late) {
			t.Errorf("%d MiB are in use, and %d MiB were allocated within %v", now>>20, burst>>20, time.Since(began))
			return heap
		}
	}
	return heap
}
