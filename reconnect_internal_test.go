package pgnotify

import (
	"math"
	"testing"
	"time"
)

// The bound of the waits doubles, up to its limit, however large that is.
func TestCeiling(t *testing.T) {
	t.Parallel()
	l := &Listener{config: ListenerConfig{MinBackoff: 3, MaxBackoff: 20}}
	for i, want := range []time.Duration{3, 3, 6, 12, 20, 20} {
		if got := l.ceiling(i); got != want {
			t.Errorf("after %d failures %d, want %d", i, got, want)
		}
	}
	l.config = ListenerConfig{MinBackoff: time.Millisecond, MaxBackoff: math.MaxInt64}
	for i := range 100 {
		if d := l.ceiling(i); d < time.Millisecond || d < l.ceiling(i-1) {
			t.Errorf("after %d failures %d", i, d)
		}
	}
}

// Full jitter: a wait is anything from nothing to below the ceiling, so that Listeners
// which lose their sessions together do not come back together.
func TestBackoffIsFullJitter(t *testing.T) {
	t.Parallel()
	l := &Listener{config: ListenerConfig{MinBackoff: time.Millisecond, MaxBackoff: time.Second}}
	for failures := 2; failures < 20; failures++ {
		ceiling, low, high := l.ceiling(failures-1), 0, 0
		for range 1000 {
			switch d := l.backoff(failures); {
			case d < 0 || d >= ceiling:
				t.Fatalf("after %d failures %v, not below %v", failures, d, ceiling)
			case d < ceiling/4:
				low++
			case d > ceiling*3/4:
				high++
			}
		}
		if low < 100 || high < 100 { // of 250
			t.Errorf("after %d failures, %d of 1000 are in the lowest quarter, %d in the highest", failures, low, high)
		}
	}
	for failures := range 2 {
		if d := l.backoff(failures); d != 0 {
			t.Errorf("after %d failures %v", failures, d)
		}
	}
}
