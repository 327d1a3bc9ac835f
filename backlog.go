package pgnotify

import (
	"slices"
	"sync"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// Bounds of what a session keeps for a program that does not take its notifications.
const (
	maxBacklog      = 64 << 10 // notifications
	maxBacklogBytes = 16 << 20 // bytes of memory
)

// A batch is a run of notifications from one read of the socket, followed by the gap of
// those that were not kept.
type batch struct {
	items []wire.Notification
	bytes int // of memory
	gap   *Gap
}

// A backlog keeps the notifications of a session, in order, until they are taken. It
// keeps the batches in which they arrived, so that none is copied before it is taken.
// When it is full, further notifications are counted in a gap behind the last batch.
// The producer never blocks. Methods are safe for concurrent use.
type backlog struct {
	wake chan struct{} // has a token when something has arrived

	mu      sync.Mutex            // guards the fields below
	owner   uint64                // the lease that may take
	now     batch                 // being taken
	next    int                   // index in now of the first that was not taken
	waiting []batch               // in order
	count   int                   // notifications in waiting
	bytes   int                   // bytes of memory in waiting
	spares  [][]wire.Notification // empty slices to be filled
	dirty   bool                  // spares still hold old notifications
}

func newBacklog() backlog { return backlog{wake: make(chan struct{}, 1), owner: nobody} }

// put appends items, which then belong to the backlog, or counts them if the backlog is
// full. It returns a slice to fill next.
func (b *backlog) put(items []wire.Notification) (spare []wire.Notification) {
	b.mu.Lock()
	last := len(b.waiting) - 1
	switch {
	case b.count < maxBacklog && b.bytes < maxBacklogBytes:
		if len(b.waiting) >= maxSpares && cap(items) > 4*len(items)+minRing {
			items, spare = slices.Clone(items), items // many batches, each with much room to spare
			clear(spare)
			spare = spare[:0]
		}
		b.keepLocked(batch{items: items})
		if spare == nil {
			spare = b.takeSpareLocked()
		}
	default:
		b.waiting[last].gap = b.waiting[last].gap.dropped(len(items))
		clear(items)
		spare = items[:0]
	}
	b.mu.Unlock()
	b.signal()
	return spare
}

// notificationSize is the size of a wire.Notification, and a little more for what the
// memory of its strings takes besides them.
const notificationSize = 64

// memoryOf returns about how much memory notifications take. Those of one channel share
// its name, but each may be of another one.
func memoryOf(items []wire.Notification) (n int) {
	for i := range items {
		n += len(items[i].Channel) + len(items[i].Payload)
	}
	return n + notificationSize*cap(items)
}

func (b *backlog) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take sets n to the next notification, for the lease that may have it. If there is
// none, or the lease has ended, ok is false; err is a *GapError if a gap is next. The
// usual case is the hot path of an iteration, so each word is moved only once.
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

// advanceLocked moves on to the next waiting batch, unless a gap comes first.
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

// turnLocked makes the first waiting batch the one to take from.
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

// Bounds of the memory kept for future batches: how many slices, during a burst and
// after it, and how many notifications each has room for.
const (
	maxSpares     = 8
	maxIdleSpares = 3
	maxSpareSize  = 2048
)

// keepSpareLocked keeps the memory of a batch that was taken. Its old content is
// cleared when the burst is over; during a burst it is soon overwritten.
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

// more passes the wake-up on if anything is left.
func (b *backlog) more() {
	b.mu.Lock()
	left := b.next < len(b.now.items) || b.now.gap != nil || len(b.waiting) > 0
	b.mu.Unlock()
	if left {
		b.signal()
	}
}

// nobody is the owner of a backlog between two leases.
const nobody = ^uint64(0)

// reset discards everything, and gives what arrives from now on to another lease; 0 is
// none.
func (b *backlog) reset(lease uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner = lease; lease == 0 {
		b.owner = nobody
	}
	b.now, b.next, b.waiting, b.count, b.bytes, b.spares = batch{}, 0, nil, 0, 0, nil
}

// drop discards the notifications of the given channels.
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

// keepLocked appends a batch. The gap of an empty batch goes to the one before it.
func (b *backlog) keepLocked(one batch) {
	last := len(b.waiting) - 1
	switch {
	case len(one.items) > 0:
		one.bytes = memoryOf(one.items)
		b.waiting = append(b.waiting, one)
		b.count += len(one.items)
		b.bytes += one.bytes
	case last < 0:
		b.now.gap = b.now.gap.and(one.gap)
	default:
		b.waiting[last].gap = b.waiting[last].gap.and(one.gap)
	}
}
