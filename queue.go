package pgnotify

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A queue holds the events of a subscription. The Listener puts them in, under its
// lock, and any number of goroutines take them out, each event once:
//
//	put ──▶ ring ──▶ take, next, takeAll     until it has an outlet
//	put ──▶ outlet ──▶ whoever receives      after open
//	put ──▶ ring ──▶ pump ──▶ outlet         after openPumped
//
// The ring grows as it is needed. Who takes from it waits for a bell, which is rung
// when all that came together is in it: who waits on a Go channel is woken by the
// first of many, and then it and the sender get into each other's way.
type queue struct {
	size int           // the most events
	bell chan struct{} // has room for one

	// Written under the Listener's lock and mu; either will do for reading.
	out    chan Event // the outlet: takers take from it; nil while there is none
	direct bool       // the outlet is in place of the ring

	// The Listener's lock guards these.
	hold   hold
	oldest time.Time // nothing in the queue came before

	mu      sync.Mutex // guards the rest
	ring    ring
	waiting int  // takers who wait for the bell, or come from it
	held    bool // takers wait for the bell even if the ring is not empty
	closed  bool // nothing is put any more
}

// len returns how many events there are. It is for who holds the Listener's lock.
func (q *queue) len() int {
	if q.direct {
		return len(q.out)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.n
}

// room returns how many notifications may be put: the last place is a gap's.
func (q *queue) room(queued int) int { return max(q.size-1-queued, 0) }

// put puts as many notifications of a run into the queue as there is room for, and
// returns how many. They came at a time, and go to so many hearers. It reports whether
// it has begun a hold, which ring is to end when the batch is over.
func (q *queue) put(run []wire.Notification, hearers int, now time.Time) (n int, holds bool) {
	if q.direct {
		n = min(q.room(len(q.out)), len(run)) // nobody else sends
		for i := range run[:n] {
			q.out <- Event{Notification: Notification(run[i])} // does not wait
		}
		return n, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(q.room(q.ring.n), len(run))
	if q.ring.n == 0 {
		q.oldest = now
	}
	holds = q.steerLocked(len(run), hearers, now)
	q.hold.sent += uint64(n)
	q.ring.grow(n, q.size)
	for i := range run[:n] {
		q.ring.push(Event{Notification: Notification(run[i])})
	}
	q.wakeLocked()
	return n, holds
}

// putOne puts an event into a queue that the caller has seen not to be full.
func (q *queue) putOne(e Event) {
	if q.direct {
		q.out <- e // does not wait: nobody else sends
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ring.n == 0 {
		q.oldest = time.Now()
	}
	q.hold.sent++
	q.ring.grow(1, q.size)
	q.ring.push(e)
	q.wakeLocked()
}

// drain takes all out of the ring, and returns how many notifications that were, and
// the gaps that were among them as one.
func (q *queue) drain() (notifications int, gap *Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.ring.n > 0 {
		if e := q.ring.pop(); e.Gap == nil {
			notifications++
		} else {
			gap = gap.and(e.Gap)
		}
	}
	return notifications, gap
}

// close has takers learn of the end when there is nothing left to take.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.held = true, false
	if q.direct {
		close(q.out)
	}
	q.wakeLocked()
}

// open makes a Go channel the place of the events, if there is no outlet yet. It needs
// the Listener's lock, as openPumped does.
func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out != nil {
		return
	}
	q.out, q.direct, q.held = make(chan Event, q.size), true, false
	for q.ring.n > 0 {
		q.out <- q.ring.pop()
	}
	q.ring = ring{}
	if q.closed {
		close(q.out)
	}
	q.wakeLocked()
}

// openPumped makes an outlet that the caller sends to.
func (q *queue) openPumped() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = make(chan Event) // without room: what comes before a gap was taken before CatchUp is called
	q.wakeLocked()
}

// ringBell ends a hold, and wakes who waits.
func (q *queue) ringBell() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = false
	q.wakeLocked()
}

// wakeLocked wakes one of those who wait, if there is a reason to. When that one leaves
// it wakes the next.
func (q *queue) wakeLocked() {
	if q.waiting > 0 && !q.held && (q.ring.n > 0 || q.closed || q.out != nil) {
		select {
		case q.bell <- struct{}{}:
		default:
		}
	}
}

// take takes the next event, if that takes no waiting.
func (q *queue) take() (e Event, ok bool) {
	q.mu.Lock()
	if q.out == nil {
		if ok = q.ring.n > 0 && !q.held; ok {
			e = q.ring.pop()
		}
		q.mu.Unlock()
		return e, ok
	}
	q.mu.Unlock()
	select {
	case e, ok = <-q.out:
	default:
	}
	return e, ok
}

// takeAll takes what there is.
func (q *queue) takeAll() {
	for range q.size { // not for ever, however fast they come
		if _, ok := q.take(); !ok {
			return
		}
	}
}

// Errors of next that are not the context's.
var (
	errAlarm = errors.New("pgnotify: alarm")
	errEnd   = errors.New("pgnotify: the queue is closed")
	errMoved = errors.New("pgnotify: the queue has an outlet") // for next only
)

// next waits for the next event, for the end of the queue or of ctx, or for the alarm,
// which may be nil.
func (q *queue) next(ctx context.Context, alarm <-chan time.Time) (Event, error) {
	if err := ctx.Err(); err != nil {
		return Event{}, err
	}
	if e, err := q.nextInRing(ctx, alarm, false); err != errMoved {
		return e, err
	}
	select {
	case e, ok := <-q.out:
		if !ok {
			return e, errEnd
		}
		return e, nil
	case <-alarm:
		return Event{}, errAlarm
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// nextInRing is next for the ring. Where there is an outlet, only the pump takes from
// the ring, and others get errMoved.
func (q *queue) nextInRing(ctx context.Context, alarm <-chan time.Time, pump bool) (Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wakeLocked() // another one, for what is left
	for pump || q.out == nil {
		switch {
		case q.ring.n > 0 && !q.held:
			return q.ring.pop(), nil
		case q.ring.n == 0 && q.closed:
			return Event{}, errEnd
		}
		q.wakeLocked() // the pump passes on what was for those who are to go to the outlet
		if err := q.waitLocked(ctx, alarm); err != nil {
			return Event{}, err
		}
	}
	return Event{}, errMoved
}

// waitLocked waits for the bell, for the end of ctx or for the alarm, without the lock.
func (q *queue) waitLocked(ctx context.Context, alarm <-chan time.Time) error {
	q.waiting++
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.waiting--
	}()
	select {
	case <-q.bell:
		return nil
	case <-alarm:
		return errAlarm
	case <-ctx.Done():
		return ctx.Err()
	}
}
