package pgnotify

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// A bell wakes who waits for a subscription's queue when all that came together is
// in it. A goroutine that waits on the Go channel itself is woken by the first of
// many, and then it and the reader get into each other's way, with the channel's lock
// for each of the others.
type bell struct {
	waiting atomic.Int32  // how many wait, or are about to
	held    atomic.Bool   // takers wait for the bell even if the queue is not empty
	rung    chan struct{} // has room for one
}

// hold has takers wait until the bell is rung.
func (b *bell) hold() { b.held.Store(true) }

// ring ends a hold and wakes one who waits. Who is about to wait either sees what was
// put into the queue before, or is seen: atomic operations have one order.
func (b *bell) ring() {
	if b.held.Load() {
		b.held.Store(false)
	}
	b.wake()
}

// wake wakes one who waits. When there is more than one takes, that one wakes the next.
func (b *bell) wake() {
	if b.waiting.Load() > 0 {
		select {
		case b.rung <- struct{}{}:
		default:
		}
	}
}

// minHeld is how many notifications must come together for a hold to be worth while.
const minHeld = 8

// holdLocked has those who take from the queue of s wait until the present batch is in
// it, when a run of it comes that s and the other hearers of its channel get. It does so
// only where they have taken all before, so that nobody is held again and again, and not
// where delivering takes long. Before each run it looks whether half of the queue is used,
// and ends the hold then.
func (s *Subscription) holdLocked(run, hearers int) {
	queued := len(s.queue)
	full := queued+run > s.limit/2
	switch {
	case s.toRing && full:
		s.bell.ring()
	case !s.toRing && !full && queued == 0 && run >= minHeld && run*hearers <= maxDeliveries:
		s.toRing = true
		s.bell.hold()
		s.l.toRing = append(s.l.toRing, s)
	}
}

// ringLocked ends the holds of a batch.
func (l *Listener) ringLocked() {
	for _, s := range l.toRing {
		s.toRing = false
		s.bell.ring()
	}
	clear(l.toRing)
	l.toRing = l.toRing[:0]
}

// errAlarm is what next returns when the alarm goes off.
var errAlarm = errors.New("pgnotify: alarm")

// next waits for the next event, or for the end of ctx, or for the alarm, which may be
// nil.
func (s *Subscription) next(ctx context.Context, alarm <-chan time.Time) (Event, error) {
	if err := ctx.Err(); err != nil {
		return Event{}, err
	}
	if s.out == s.queue {
		return s.nextRung(ctx, alarm)
	}
	select {
	case e, ok := <-s.out:
		return e, s.errIf(!ok)
	case <-alarm:
		return Event{}, errAlarm
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// nextRung is next for the queue itself.
func (s *Subscription) nextRung(ctx context.Context, alarm <-chan time.Time) (Event, error) {
	s.bell.waiting.Add(1)
	defer s.bell.waiting.Add(-1)
	for {
		if !s.bell.held.Load() {
			select {
			case e, ok := <-s.queue:
				if s.bell.waiting.Load() > 1 && (!ok || len(s.queue) > 0) {
					s.bell.wake()
				}
				return e, s.errIf(!ok)
			default:
			}
		}
		select {
		case <-s.bell.rung:
		case <-alarm:
			return Event{}, errAlarm
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// errIf returns what Err tells, for a queue that is closed.
func (s *Subscription) errIf(closed bool) error {
	if closed {
		return s.Err()
	}
	return nil
}
