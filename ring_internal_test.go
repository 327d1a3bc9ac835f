package pgnotify

import (
	"math/rand/v2"
	"testing"
)

// A ring is a sequence, whatever is done to it, and keeps nothing that was taken out.
func TestRing(t *testing.T) {
	t.Parallel()
	for most := range 70 {
		var r ring
		var e Event
		pushed, popped := uint32(0), uint32(0)
		for range 2000 {
			if n := rand.IntN(most + 1 - r.n); rand.IntN(2) == 0 {
				r.grow(n, most)
				for range n {
					*r.push() = Event{Notification: Notification{PID: pushed, Payload: "x"}}
					pushed++
				}
			} else {
				for range rand.IntN(r.n + 1) {
					if r.pop(&e); e.PID != popped {
						t.Fatalf("%d instead of %d", e.PID, popped)
					}
					popped++
				}
			}
			kept := 0
			for _, e := range r.events {
				if e != (Event{}) {
					kept++
				}
			}
			if kept != r.n || r.n != int(pushed-popped) || len(r.events) > most {
				t.Fatalf("%d of %d, in room for %d of at most %d: %d are kept", r.n, pushed-popped, len(r.events), most, kept)
			}
		}
	}
}
