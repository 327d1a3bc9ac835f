package pgnotify

import (
	"context"
	"errors"
	"fmt"
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
	h.batchTime = time.Now()
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

// Who iterates needs no goroutine for OverflowDropOldest, and gets nothing between what
// was dropped and its gap.
func TestDropOldestWhileIterating(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 4, Overflow: OverflowDropOldest})
	const said = 100_000
	go func() {
		for from := 0; from < said; from += 100 {
			h.sayFrom(from, 100, "a")
		}
		sub.Close()
	}()
	next, gaps := 0, 0
	var gap *GapError
	for n, err := range sub.All(context.Background()) {
		switch {
		case errors.As(err, &gap):
			next += int(gap.Gap.Dropped)
			gaps++
		case err == nil:
			if n.Payload != fmt.Sprint(next) {
				t.Fatalf("%s instead of %d", n.Payload, next)
			}
			next++
		case err != ErrClosed:
			t.Fatal(err)
		}
	}
	if next != said || gaps == 0 {
		t.Errorf("%d of %d, with %d gaps", next, said, gaps)
	}
	h.Listener.mu.Lock()
	defer h.Listener.mu.Unlock()
	if h.pumps > 0 {
		t.Error("there is a goroutine")
	}
}

// The last gap comes, too, when the subscription ends while its queue is full.
func TestGapOwedAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(*Subscription){
		"All":    func(*Subscription) {},
		"Events": func(s *Subscription) { s.Events() },
	} {
		h := newHall(t, "a")
		sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 2})
		first(sub)
		h.say(2, "a") // one, and the gap when nothing has come for a while
		eventually(t, "the queue is full", func() bool { return queued(sub) == 2 })
		h.say(5, "a")
		sub.Close()
		heard, dropped := 0, 0
		for e := range sub.Events() {
			if e.Gap == nil {
				heard++
			} else {
				dropped += int(e.Gap.Dropped)
			}
		}
		if heard != 1 || dropped != 6 {
			t.Errorf("%s: %d and %d dropped", name, heard, dropped)
		}
	}
}

// Who is somewhat too slow for long hears about as much as they can take, with a gap
// now and then, and not one gap after the other.
func TestSlowForLong(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 3, 4, 5, 16, 1000} {
		for name, first := range map[string]func(*Subscription){
			"All":    func(*Subscription) {},
			"Events": func(s *Subscription) { s.Events() },
		} {
			h := newHall(t, "a")
			sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: size})
			first(sub)
			const said = 40_000
			heard, gaps, doubles, next, afterGap := 0, 0, 0, 0, false
			hear := func() {
				var e Event
				if !sub.queue.take(&e) {
					return
				}
				if e.Gap != nil {
					if gaps++; afterGap {
						doubles++
					}
					next += int(e.Gap.Dropped)
				} else {
					if e.Payload != fmt.Sprint(next) {
						t.Fatalf("%s, %d: %s instead of %d", name, size, e.Payload, next)
					}
					next++
					heard++
				}
				afterGap = e.Gap != nil
			}
			for i := range said {
				h.sayFrom(i, 1, "a")
				if i%4 > 0 {
					hear()
				}
			}
			if heard < said/3 || gaps == 0 || doubles > 20 { // one may come when the test has to wait
				t.Errorf("%s, %d: heard %d of %d, with %d gaps, %d after another one", name, size, heard, said, gaps, doubles)
			}
		}
	}
}

// A subscription to be disconnected when it is slow is not, as long as there is room,
// though a gap has waited for it.
func TestGapBeforeDisconnecting(t *testing.T) {
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 8, Overflow: OverflowDisconnect})
	h.say(7, "a")
	h.mu.Lock()
	for range 2 {
		sub.owe(&Gap{Cause: GapReconnect, From: time.Now()})
	}
	h.mu.Unlock()
	var e Event
	for range 4 {
		sub.queue.take(&e)
	}
	h.say(1, "a")
	if err := sub.Err(); err != nil || queued(sub) != 6 { // 3, two gaps, and 1
		t.Errorf("%d in the queue, %v", queued(sub), err)
	}
}
