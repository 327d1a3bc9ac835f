package states_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestStates: F1, P8, P9 and O3, in any mixture.
func TestStates(t *testing.T) {
	seed := *firstSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 40)
	}
	ctx, stop := context.WithCancel(context.Background())
	var heap uint64
	var watcher, players sync.WaitGroup
	watcher.Go(func() { heap = watchMemory(ctx, t) }) // ends with the context; joined below
	var total tally
	var worlds atomic.Uint64
	end := time.Now().Add(*playTime)
	atATime := 2 * runtime.GOMAXPROCS(0)
	if *playTime == 0 {
		atATime = 1
	}
	for range atATime {
		players.Go(func() { // ends when the time is over; joined below
			for first := true; !t.Failed() && (first && *playTime == 0 || time.Now().Before(end)); first = false {
				next := seed + worlds.Add(1) - 1
				t.Run(fmt.Sprintf("seed=%d", next), func(t *testing.T) {
					w := newWorld(t, next)
					w.play()
					total.add(&w.tally)
				})
			}
		})
	}
	players.Wait()
	stop()
	watcher.Wait()
	t.Logf("-states=%v -states.seed=%d: %d worlds, %d calls (%d with a result), %d connections; at most %d MiB in use",
		*playTime, seed, worlds.Load(), total.calls.Load(), total.results.Load(), total.connections.Load(), heap>>20)
	if total.results.Load() == 0 {
		t.Error("nothing has happened")
	}
}
