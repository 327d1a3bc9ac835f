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

// A hold is worth while when so many come together, and only few get them: while the
// reader is at the queues of others, it is in nobody's way.
const (
	minHeld    = 8
	maxHearers = 4
)

// maxHeld is about how long somebody may be kept from taking an event, by one hold after
// another.
const maxHeld = time.Millisecond

// A lag tells whether those who take from a queue are behind.
type lag struct {
	sent  uint64    // events that were sent on the queue so far
	mark  uint64    // how many that were at a time
	since time.Time // that time
}

// keepsUp reports whether all has been taken that was there maxHeld ago, or later. It
// moves the mark on when all has been taken that was there at it.
func (g *lag) keepsUp(queued int, now time.Time) bool {
	if g.sent-uint64(queued) >= g.mark {
		g.mark, g.since = g.sent, now
		return true
	}
	return now.Sub(g.since) < maxHeld
}

// holdLocked has those who take from the queue of s wait until the present batch is in
// it, when a run of it comes that so many hearers get; but not where they are behind.
// Before each run it looks whether half of the queue is used, and ends the hold then.
func (s *Subscription) holdLocked(run, hearers int) {
	queued := len(s.queue)
	full := queued+run > s.limit/2
	switch {
	case s.toRing && full:
		s.bell.ring()
	case !s.toRing && !full && run >= minHeld && hearers <= maxHearers && s.lag.keepsUp(queued, s.l.batchTime):
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
