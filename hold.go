package pgnotify

import "time"

// A hold is worth while when so many come together, and only few get them: while the
// reader is at the queues of others, it is in nobody's way.
const (
	minHeld    = 8
	maxHearers = 4
)

// maxHeld is about how long somebody may be kept from taking an event, by one hold after
// another.
const maxHeld = time.Millisecond

// A hold is what there is to know about keeping the takers of a queue away, until the
// present batch is in it.
type hold struct {
	begun bool // in the present batch

	// Whether those who take are behind:
	sent  uint64    // events that were put so far
	mark  uint64    // how many that were at a time
	since time.Time // that time
}

// keepsUp reports whether all has been taken that was there maxHeld ago, or later. It
// moves the mark on when all has been taken that was there at it.
func (h *hold) keepsUp(queued int, now time.Time) bool {
	if h.sent-uint64(queued) >= h.mark {
		h.mark, h.since = h.sent, now
		return true
	}
	return now.Sub(h.since) < maxHeld
}

// steerLocked begins a hold when a run comes that is worth it; but not where those who
// take are behind. It ends one as soon as half of the queue is to be used: who is woken
// needs a while to come. It reports whether a hold begins, which is for endHold to end.
func (q *queue) steerLocked(run, hearers int, now time.Time) (begins bool) {
	full := q.ring.n+run > q.half()
	switch {
	case q.hold.begun && full:
		q.held = false
	case !q.hold.begun && !full && run >= minHeld && hearers <= maxHearers && q.hold.keepsUp(q.ring.n, now):
		q.hold.begun, q.held = true, true
		return true
	}
	return false
}

// endHoldsLocked ends the holds of a batch.
func (l *Listener) endHoldsLocked() {
	for _, s := range l.held {
		s.queue.hold.begun = false
		s.queue.endHold()
	}
	clear(l.held)
	l.held = l.held[:0]
}
