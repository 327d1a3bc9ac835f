package pgnotify

import (
	"context"
	"errors"
	"time"
)

// wakeLocked wakes one of those who wait, if there is something to take. When that one
// has, it wakes the next.
func (q *queue) wakeLocked() {
	if q.waiting > 0 && !q.held && q.ring.n > 0 {
		select {
		case q.bell <- struct{}{}:
		default:
		}
	}
}

// wakeAllLocked has all who wait look what has become of the queue.
func (q *queue) wakeAllLocked() {
	close(q.bell)
	q.bell = make(chan struct{}, 1)
}

// take takes the next event, if that takes no waiting.
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

// takeAll takes what there is.
func (q *queue) takeAll() {
	var e Event
	for range q.size { // not for ever, however fast they come
		if !q.take(&e) {
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
func (q *queue) nextInRing(ctx context.Context, alarm <-chan time.Time, pump bool) (e Event, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wakeLocked() // another one, for what is left
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

// waitLocked waits for the bell, for the end of ctx or for the alarm, without the lock.
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
