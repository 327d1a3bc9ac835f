package pgnotify

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// Nothing is delivered behind a CatchUp that has not succeeded, because the subscription
// has ended meanwhile.
func TestNothingComesBehindAFailedCatchUp(t *testing.T) {
	t.Parallel()
	for range 50 {
		h := newHall(t, "a")
		entered := make(chan struct{})
		sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, CatchUp: func(ctx context.Context, _ Gap) error {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}})
		<-entered
		h.say(3, "a")
		sub.Close()
		for e := range sub.Events() {
			t.Fatalf("%+v", e)
		}
	}
}

// A burst wakes a worker a few times at the most, with a CatchUp too, which is called
// all the same.
func TestWakeFoldsABurst(t *testing.T) {
	t.Parallel()
	const burst = 1000
	for name, config := range map[string]SubscriptionConfig{
		"plain":       {},
		"CatchUp":     {CatchUp: func(context.Context, Gap) error { return nil }},
		"drop oldest": {Overflow: OverflowDropOldest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHall(t, "a")
			config.Channels, config.QueueSize = []string{"a"}, 2*burst
			sub := h.subscribe(t, config)
			if config.Overflow == OverflowDropOldest {
				sub.Events()
			}
			var wakes atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for sub.Wake(context.Background(), time.Hour) == nil {
					wakes.Add(1)
				}
			}()
			h.say(burst, "a")
			eventually(t, "woken", func() bool { return wakes.Load() > 0 && queued(sub) == 0 })
			sub.Close()
			<-done
			if n := wakes.Load(); n > burst/20 {
				t.Errorf("%d notifications woke it %d times", burst, n)
			}
		})
	}
}

// With a CatchUp, Wake discards notifications, and no gap.
func TestWakeLeavesTheGapToCatchUp(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	gaps := make(chan Gap, 10)
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 4,
		CatchUp: func(_ context.Context, gap Gap) error { gaps <- gap; return nil }})
	<-gaps // of the beginning
	h.say(100, "a")
	if err := sub.Wake(context.Background(), time.Hour); err != nil {
		t.Fatal(err)
	}
	select {
	case gap := <-gaps:
		if gap.Cause != GapOverflow || gap.Dropped == 0 {
			t.Errorf("%+v", gap)
		}
	case <-time.After(20 * time.Second):
		t.Error("CatchUp was not told of the overflow")
	}
}
