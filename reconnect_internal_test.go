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
