package pgnotify

import (
	"context"
	"errors"
	"time"
)

// wakeLocked wakes one waiting taker if there is something to take. That taker wakes
// the next.
func (q *queue) wakeLocked() {
	if q.waiting > 0 && !q.held && q.ring.n > 0 {
		select {
		case q.bell <- struct{}{}:
		default:
		}
	}
}

// wakeAllLocked makes all waiting takers look at the queue again.
func (q *queue) wakeAllLocked() {
	close(q.bell)
	q.bell = make(chan struct{}, 1)
}

// take takes the next event if it can without waiting.
func (q *queue) take(e *Event) (ok bool) {
	q.mu.Lock()
	if q.out == nil {
		if ok = q.ring.n > 0 && !q.held; ok {
			q.ring.pop(e)
		}
		q.mu.Unlock()
		return ok
	}
	q.mu.Unlock()
	select {
	case *e, ok = <-q.out:
	default:
	}
	return ok
}

// takeAll discards what is in the queue; with a CatchUp, up to the next gap, which is
// the pump's.
func (q *queue) takeAll(hasCatchUp bool) {
	var e Event
	for range q.size { // bounded, however fast events come
		if !q.take(&e) {
			break
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out == nil { // held: left for the next Wake
		return
	}
	for q.ring.n > 0 && !(hasCatchUp && q.ring.next().Gap != nil) { // what the pump has not come to
		q.ring.pop(&e)
	}
}

// Errors of next other than the context's.
var (
	errAlarm = errors.New("pgnotify: alarm")
	errEnd   = errors.New("pgnotify: the queue is closed")
	errMoved = errors.New("pgnotify: the queue has an outlet") // only from nextInRing
)

// next waits for the next event. It fails at the end of the queue or of ctx, or when
// alarm fires, which may be nil.
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

// nextInRing is next for the ring. When there is an outlet, only the pump takes from
// the ring, and others get errMoved.
func (q *queue) nextInRing(ctx context.Context, alarm <-chan time.Time, pump bool) (e Event, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wakeLocked() // another taker, for what is left
	for pump || q.out == nil {
		switch {
		case q.ring.n > 0 && !q.held:
			q.ring.pop(&e)
			return e, nil
		case q.ring.n == 0 && q.closed:
			return e, errEnd
		}
		if err := q.waitLocked(ctx, alarm); err != nil {
			return e, err
		}
	}
	return e, errMoved
}

// waitLocked releases the lock and waits for the bell, the end of ctx, or the alarm.
func (q *queue) waitLocked(ctx context.Context, alarm <-chan time.Time) error {
	bell := q.bell
	q.waiting++
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.waiting--
	}()
	select {
	case <-bell:
		return nil
	case <-alarm:
		return errAlarm
	case <-ctx.Done():
		return ctx.Err()
	}
}
