package pgnotify

// minRing is the least room that a ring makes, in events.
const minRing = 16

// A ring is a first-in, first-out sequence of events. It grows by doubling, and begins
// at its start again whenever it is empty, so that it stays where it is in the
// processor's cache, and keeps only what its longest sequence took.
type ring struct {
	events []Event
	first  int // where the oldest is
	n      int // how many there are
}

// grow makes room for more events, where the ring is to hold no more than most.
func (r *ring) grow(more, most int) {
	need := r.n + more
	if need <= len(r.events) {
		return
	}
	events := make([]Event, min(max(2*len(r.events), need, minRing), most))
	k := copy(events, r.events[r.first:min(r.first+r.n, len(r.events))])
	copy(events[k:], r.events[:r.n-k])
	r.events, r.first = events, 0
}

// push adds an event at the end, where there is room, and returns where it is: a zero
// one.
func (r *ring) push() *Event {
	at := r.first + r.n
	if at >= len(r.events) {
		at -= len(r.events)
	}
	r.n++
	return &r.events[at]
}

// pop moves the oldest out of a ring that is not empty: once, and not from function to
// function, which would be a good part of what hearing it costs.
func (r *ring) pop(to *Event) {
	at := &r.events[r.first]
	*to, *at = *at, Event{}
	r.first++
	r.n--
	if r.n == 0 || r.first == len(r.events) {
		r.first = 0
	}
}
