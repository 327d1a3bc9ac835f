package pgnotify

import (
	"slices"
	"sync"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// Bounds of what a session keeps for a program that does not take its
// notifications.
const (
	maxBacklog      = 64 << 10 // notifications
	maxBacklogBytes = 16 << 20 // bytes of payload
)

// A batch is a run of notifications, as one read of the socket brought them,
// and behind it the gap of those that were not kept.
type batch struct {
	items []wire.Notification
	bytes int // of payload
	gap   *Gap
}

// A backlog keeps the notifications of a session until they are taken, in
// order. It holds them in the batches they came in, so that none is copied
// before it is taken. When it is full, further ones are counted instead, as a
// gap behind the last batch. The producer never waits. Methods are safe for
// concurrent use.
type backlog struct {
	wake chan struct{} // has a token when something came

	mu      sync.Mutex            // guards the fields below
	owner   uint64                // the lease that may take
	now     batch                 // being taken
	next    int                   // the first of now that was not taken
	waiting []batch               // in order
	count   int                   // notifications in waiting
	bytes   int                   // their payload
	spares  [][]wire.Notification // empty ones to be filled
	dirty   bool                  // they hold what they held before
}

func newBacklog() backlog { return backlog{wake: make(chan struct{}, 1), owner: nobody} }

// put appends items, which then belong to the backlog, or counts them if it is
// full. It returns a slice to fill next.
func (b *backlog) put(items []wire.Notification) (spare []wire.Notification) {
	b.mu.Lock()
	last := len(b.waiting) - 1
	switch {
	case b.count < maxBacklog && b.bytes < maxBacklogBytes:
		b.keepLocked(batch{items: items})
		spare = b.takeSpareLocked()
	default:
		b.waiting[last].gap = b.waiting[last].gap.dropped(len(items))
		clear(items)
		spare = items[:0]
	}
	b.mu.Unlock()
	b.signal()
	return spare
}

func payloadBytes(items []wire.Notification) (n int) {
	for i := range items {
		n += len(items[i].Payload)
	}
	return n
}

func (b *backlog) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take sets n to the next notification, for the lease that may have it. Where
// there is none, or the lease has ended, ok is false; err is then a *GapError if
// the gap is next. Its usual case is the hot path of an iteration: it moves each
// word once.
func (b *backlog) take(lease uint64, n *Notification) (ok bool, err error) {
	b.mu.Lock()
	if ok = lease == b.owner && b.next < len(b.now.items); !ok {
		ok, err = b.advanceLocked(lease)
	}
	if ok {
		next := &b.now.items[b.next]
		n.Channel, n.Payload, n.PID = next.Channel, next.Payload, next.PID
		b.next++
	}
	b.mu.Unlock()
	return ok, err
}

// advanceLocked goes on to the batch that waits, unless a gap is before it.
func (b *backlog) advanceLocked(lease uint64) (ok bool, err error) {
	gap := b.now.gap
	switch {
	case lease != b.owner:
		return false, nil
	case gap != nil:
		b.now.gap = nil
		return false, &GapError{Gap: *gap}
	case len(b.waiting) == 0:
		return false, nil
	}
	b.turnLocked()
	return true, nil
}

// turnLocked makes the first of the waiting batches the one to take from.
func (b *backlog) turnLocked() {
	b.keepSpareLocked(b.now.items)
	b.now, b.next = b.waiting[0], 0
	b.count -= len(b.now.items)
	b.bytes -= b.now.bytes
	b.waiting[0] = batch{}
	if b.waiting = b.waiting[1:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
}

// Bounds of the memory kept for batches to come: how many, while a burst lasts
// and afterwards, and how many notifications each has room for.
const (
	maxSpares     = 8
	maxIdleSpares = 3
	maxSpareSize  = 2048
)

// keepSpareLocked keeps the memory of a batch that was taken. What the batch
// held is cleared when a burst is over; while it lasts, it is overwritten soon.
func (b *backlog) keepSpareLocked(items []wire.Notification) {
	if cap(items) > 0 && cap(items) <= maxSpareSize && len(b.spares) < maxSpares {
		b.spares = append(b.spares, items[:0])
		b.dirty = true
	}
	if len(b.waiting) > 1 || !b.dirty {
		return
	}
	for len(b.spares) > maxIdleSpares {
		b.takeSpareLocked()
	}
	for _, spare := range b.spares {
		clear(spare[:cap(spare)])
	}
	b.dirty = false
}

func (b *backlog) takeSpareLocked() (spare []wire.Notification) {
	if last := len(b.spares) - 1; last >= 0 {
		spare, b.spares[last] = b.spares[last], nil
		b.spares = b.spares[:last]
	}
	return spare
}

// pending returns how many notifications and gaps there are to take.
func (b *backlog) pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.now.items) - b.next + b.count
	if b.now.gap != nil {
		n++
	}
	for i := range b.waiting {
		if b.waiting[i].gap != nil {
			n++
		}
	}
	return n
}

// more passes the wake-up on if something is left.
func (b *backlog) more() {
	b.mu.Lock()
	left := b.next < len(b.now.items) || b.now.gap != nil || len(b.waiting) > 0
	b.mu.Unlock()
	if left {
		b.signal()
	}
}

// nobody owns a backlog between two leases.
const nobody = ^uint64(0)

// reset forgets everything and lets another lease take what comes; 0 is none.
func (b *backlog) reset(lease uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner = lease; lease == 0 {
		b.owner = nobody
	}
	b.now, b.next, b.waiting, b.count, b.bytes, b.spares = batch{}, 0, nil, 0, 0, nil
}

// drop forgets the notifications of the given channels.
func (b *backlog) drop(channels []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := append([]batch{{items: b.now.items[b.next:], gap: b.now.gap}}, b.waiting...)
	b.now, b.next, b.waiting, b.count, b.bytes = batch{}, 0, nil, 0, 0
	for _, one := range left {
		one.items = slices.DeleteFunc(one.items, func(n wire.Notification) bool {
			return slices.Contains(channels, n.Channel)
		})
		b.keepLocked(one)
	}
}

// keepLocked puts a batch back; the gap of an empty one goes to the one before.
func (b *backlog) keepLocked(one batch) {
	last := len(b.waiting) - 1
	switch {
	case len(one.items) > 0:
		one.bytes = payloadBytes(one.items)
		b.waiting = append(b.waiting, one)
		b.count += len(one.items)
		b.bytes += one.bytes
	case last < 0:
		b.now.gap = b.now.gap.and(one.gap)
	default:
		b.waiting[last].gap = b.waiting[last].gap.and(one.gap)
	}
}
