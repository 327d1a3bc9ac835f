// Package dispatch calls a function for each of a sequence of events, in order, away
// from the goroutine that produces them.
package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Queue passes events to a function, one at a time, on a goroutine that exists only
// while there are events. The producer never waits longer than the patience it gives;
// events that do not fit are counted and dropped. All methods are safe for concurrent
// use, even from within the function.
type Queue[E any] struct {
	run    func(E)
	weigh  func(E) int
	limit  int
	queued atomic.Uint64 // events accepted so far

	mu      sync.Mutex // guards the fields below
	done    uint64     // events run so far
	events  []weighed[E]
	weight  int // of events
	running bool
	closed  bool
	last    bool // PutLast was called
	stalled bool // a producer waited in vain, and no event has been run since
	dropped uint64
	changed chan struct{} // closed when an event has been run; nil when nobody waits
}

type weighed[E any] struct {
	event  E
	weight int
}

// New returns a queue for run that accepts events until they weigh limit. weigh returns
// the weight of an event; if it is nil, each weighs 1.
func New[E any](limit int, weigh func(E) int, run func(E)) *Queue[E] {
	if weigh == nil {
		weigh = func(E) int { return 1 }
	}
	return &Queue[E]{run: run, weigh: weigh, limit: limit}
}

// Put queues e. While the queue is full it waits for up to patience; then it drops e
// and reports false. After that it does not wait again until another event has been
// run, so a function that blocks costs one patience in all.
func (q *Queue[E]) Put(e E, patience time.Duration) bool {
	var expired <-chan time.Time
	for {
		changed, ok := q.put(e, patience <= 0)
		if changed == nil {
			return ok
		}
		if expired == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-changed:
		case <-expired:
			patience = 0
			q.stall()
		}
	}
}

func (q *Queue[E]) stall() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stalled = q.weight >= q.limit
}

// put queues e, drops it, or returns a channel to wait for. last says that this is the
// last try.
func (q *Queue[E]) put(e E, last bool) (<-chan struct{}, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed, q.last:
		return nil, false
	case q.weight < q.limit:
		q.appendLocked(e)
		return nil, true
	case last, q.stalled:
		q.dropped++
		return nil, false
	}
	return q.waitLocked(), false
}

// PutLast queues e even if the queue is full, and refuses later events.
func (q *Queue[E]) PutLast(e E) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed && !q.last {
		q.last = true
		q.appendLocked(e)
	}
}

func (q *Queue[E]) appendLocked(e E) {
	w := q.weigh(e)
	q.events = append(q.events, weighed[E]{e, w})
	q.weight += w
	q.queued.Add(1)
	q.startLocked()
}

func (q *Queue[E]) waitLocked() <-chan struct{} {
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return q.changed
}

func (q *Queue[E]) startLocked() {
	if !q.running && len(q.events) > 0 {
		q.running = true
		go q.runAll() // ends when the queue is empty or closed
	}
}

func (q *Queue[E]) runAll() {
	for {
		e, ok := q.take()
		if !ok {
			return
		}
		q.runOne(e)
	}
}

// runOne runs e. If e ends the goroutine, as runtime.Goexit does, another one takes
// over.
func (q *Queue[E]) runOne(e E) {
	returned := false
	defer func() {
		q.ran()
		if !returned {
			go q.runAll()
		}
	}()
	q.run(e)
	returned = true
}

func (q *Queue[E]) take() (e E, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		q.running = false
		q.events = nil
		return e, false
	}
	first := q.events[0]
	q.events[0] = weighed[E]{}
	q.events = q.events[1:]
	q.weight -= first.weight
	return first.event, true
}

func (q *Queue[E]) ran() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done++
	q.stalled = false
	q.wakeLocked()
}

func (q *Queue[E]) wakeLocked() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// Mark returns a point in the sequence of events, for Flush.
func (q *Queue[E]) Mark() uint64 { return q.queued.Load() }

// Flush waits until the events queued since mark have been run, but no longer than
// patience or ctx allow, so that a function that waits for the caller cannot hang it.
// If nothing was queued since mark, it does not wait for earlier events, one of which
// may be the caller.
func (q *Queue[E]) Flush(ctx context.Context, mark uint64, patience time.Duration) {
	goal := q.queued.Load()
	if goal == mark {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		changed := q.pending(goal)
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pending returns a channel to wait for while fewer than goal events have been run, or
// nil.
func (q *Queue[E]) pending(goal uint64) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done >= goal || q.closed {
		return nil
	}
	return q.waitLocked()
}

// Queued returns the weight of the events that wait.
func (q *Queue[E]) Queued() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.weight
}

// Dropped returns how many events were dropped because the queue was full.
func (q *Queue[E]) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close drops the queued events and refuses later ones. It does not wait for the event
// being run, which may have called Close.
func (q *Queue[E]) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.events, q.weight = nil, 0
	q.wakeLocked()
}
