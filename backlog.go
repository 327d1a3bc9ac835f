package pgnotify

import (
	"slices"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// Bounds of what a session keeps for a program that does not take its
// notifications: twice, one half being filled and one being taken.
const (
	maxBacklog      = 32 << 10 // notifications
	maxBacklogBytes = 8 << 20  // bytes of payload
)

// A backlog keeps the notifications of a session until they are taken, in
// order. It has two halves, one that is filled and one that is taken from; they
// change places when the latter is empty. When the former is full, further
// notifications are counted instead, as a gap that stands behind it. The
// producer never waits. Methods are safe for concurrent use.
type backlog struct {
	wake chan struct{} // has a token when something came

	mu     sync.Mutex // guards the fields below
	in     []wire.Notification
	bytes  int // payload of in
	inGap  *Gap
	out    []wire.Notification
	next   int // the first of out that was not taken
	outGap *Gap
}

func newBacklog() backlog { return backlog{wake: make(chan struct{}, 1)} }

// put appends a batch, or counts what does not fit.
func (b *backlog) put(batch []wire.Notification) {
	b.mu.Lock()
	for i := range batch {
		b.putLocked(&batch[i])
	}
	b.mu.Unlock()
	b.signal()
}

func (b *backlog) putLocked(n *wire.Notification) {
	if b.inGap == nil && len(b.in) < maxBacklog && b.bytes < maxBacklogBytes {
		b.in = append(b.in, *n)
		b.bytes += len(n.Payload)
		return
	}
	now := time.Now()
	if b.inGap == nil {
		b.inGap = &Gap{Cause: GapOverflow, From: now}
	}
	b.inGap.To = now
	b.inGap.Dropped++
}

func (b *backlog) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns the next notification, or a *GapError that stands before it.
// There is neither where ok is false and err nil.
func (b *backlog) take() (n Notification, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(b.out) && !b.turnLocked() {
		if gap := b.outGap; gap != nil {
			b.outGap = nil
			err = &GapError{Gap: *gap}
		}
		return n, false, err
	}
	n = Notification(b.out[b.next])
	b.next++
	return n, true, nil
}

// turnLocked makes what came in the half to take from. It reports false when
// there is nothing to take, or a gap first.
func (b *backlog) turnLocked() bool {
	if b.outGap != nil || len(b.in) == 0 && b.inGap == nil {
		return false
	}
	empty := b.out[:0]
	clear(b.out)
	if cap(empty) > 1024 && len(b.in) < 64 {
		empty = nil // after a burst
	}
	b.out, b.outGap, b.next = b.in, b.inGap, 0
	b.in, b.inGap, b.bytes = empty, nil, 0
	return len(b.out) > 0
}

// more passes the wake-up on if something is left.
func (b *backlog) more() {
	b.mu.Lock()
	left := b.next < len(b.out) || b.outGap != nil || len(b.in) > 0 || b.inGap != nil
	b.mu.Unlock()
	if left {
		b.signal()
	}
}

// drop forgets the notifications of the given channels, of all when there are
// none.
func (b *backlog) drop(channels []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(channels) == 0 {
		b.in, b.inGap, b.bytes, b.out, b.outGap, b.next = nil, nil, 0, nil, nil, 0
		return
	}
	gone := func(n wire.Notification) bool { return slices.Contains(channels, n.Channel) }
	b.out = slices.DeleteFunc(b.out[b.next:], gone)
	b.next = 0
	b.in = slices.DeleteFunc(b.in, gone)
	b.bytes = 0
	for i := range b.in {
		b.bytes += len(b.in[i].Payload)
	}
}
