package pgnotify

import (
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// The gap of OverflowDropOldest begins with the oldest of what was dropped, also where
// a gap stood before that, and was the first that ever came.
func TestDroppedBehindAGap(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 4, Overflow: OverflowDropOldest})
	before := time.Now()
	h.Listener.mu.Lock() // nobody takes
	sub.owe(&Gap{Cause: GapReconnect, Err: errors.New("test"), From: time.Now()})
	sub.putRun(make([]wire.Notification, 5), 1)
	h.Listener.mu.Unlock()
	e := <-sub.Events()
	if e.Gap == nil || e.Gap.Dropped == 0 {
		t.Fatalf("%+v", e)
	}
	if from, to := e.Gap.From, e.Gap.To; from.Before(before) || to.Before(from) {
		t.Errorf("from %v to %v, after %v", from, to, before)
	}
}
