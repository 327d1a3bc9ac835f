package pgnotify

// minRing is the smallest size that a ring allocates, in events.
const minRing = 16

// A ring is a FIFO queue of events. It grows by doubling. Whenever it is empty it
// starts over at its first slot, so that it stays in the processor's cache and touches
// only as many slots as its longest content needed.
type ring struct {
	events []Event
	first  int // index of the oldest event
	n      int // number of events
}

// grow makes room for more events, but for no more than most in all.
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

// push appends a zero event to a ring that has room, and returns its address.
func (r *ring) push() *Event {
	at := r.first + r.n
	if at >= len(r.events) {
		at -= len(r.events)
	}
	r.n++
	return &r.events[at]
}

// next returns the oldest event of a ring that is not empty.
func (r *ring) next() *Event { return &r.events[r.first] }

// pop moves the oldest event out of a non-empty ring, directly to its destination:
// passing it from function to function would be a good part of the cost of receiving
// it.
func (r *ring) pop(to *Event) {
	at := &r.events[r.first]
	*to, *at = *at, Event{}
	r.first++
	r.n--
	if r.n == 0 || r.first == len(r.events) {
		r.first = 0
	}
}
