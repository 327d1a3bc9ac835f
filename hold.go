package pgnotify

import "time"

// A hold pays off if at least minHeld notifications arrive together and go to at most
// maxHearers subscribers. With more, the reader is busy with other queues anyway.
const (
	minHeld    = 8
	maxHearers = 4
)

// maxHeld is roughly the longest time that successive holds may keep a taker waiting.
const maxHeld = time.Millisecond

// A hold is the state by which a queue keeps its takers waiting until the present batch
// is in it.
type hold struct {
	begun bool // in the present batch

	// Whether the takers are behind:
	sent  uint64    // events put so far
	mark  uint64    // the value of sent at the time since
	since time.Time // when mark was set
}

// keepsUp reports whether the takers have taken everything that was put up to the mark,
// and then moves the mark to now, or whether the mark is younger than maxHeld.
func (h *hold) keepsUp(queued int, now time.Time) bool {
	if h.sent-uint64(queued) >= h.mark {
		h.mark, h.since = h.sent, now
		return true
	}
	return now.Sub(h.since) < maxHeld
}

// steerLocked begins a hold for a run that is worth it, unless the takers are behind.
// It ends a hold as soon as the run would use half of the queue, because a woken taker
// needs a while to arrive. It reports whether a hold begins, which endHold must end.
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
