package pgnotify

import (
	"context"
	"iter"
	"time"
)

// An Event is what a subscriber receives: a notification or, if Gap is not nil, a gap.
// The subscriber owns the Gap.
type Event struct {
	Notification
	Gap *Gap
}

// Events returns the subscription's channel, the same one on each call. The channel is
// closed when the subscription has ended and, unless there is a CatchUp or
// [OverflowDropOldest], its queue has been read; Err then tells why. For bursts of
// notifications, All is cheaper.
func (s *Subscription) Events() <-chan Event {
	s.opened.Do(s.open)
	return s.queue.out
}

func (s *Subscription) open() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	switch {
	case s.stop != nil: // the pump has an outlet
	case s.config.Overflow == OverflowDropOldest && !s.ended:
		s.startPumpLocked()
	default:
		s.queue.open()
	}
}

// All iterates over the notifications, and blocks while there are none. A gap is a
// *[GapError], after which the loop may go on. Any other error ends the iteration: that
// of ctx or, once the queue of an ended subscription is empty, that of Err. Breaking
// out of the loop loses nothing.
func (s *Subscription) All(ctx context.Context) iter.Seq2[Notification, error] {
	return func(yield func(Notification, error) bool) {
		for s.yieldQueued(ctx.Done(), yield) {
			e, err := s.queue.next(ctx, nil)
			if err != nil {
				yield(Notification{}, s.whyEnded(err))
				return
			}
			if !e.yield(yield) {
				return
			}
		}
	}
}

// yieldQueued yields what is in the queue without waiting, and reports whether the loop
// goes on.
func (s *Subscription) yieldQueued(done <-chan struct{}, yield func(Notification, error) bool) bool {
	var e Event
	for {
		select {
		case <-done:
			return true // next returns the error
		default:
		}
		if !s.queue.take(&e) {
			return true // next waits
		}
		if !e.yield(yield) {
			return false
		}
	}
}

// yield passes the event to the body of a loop.
func (e *Event) yield(yield func(Notification, error) bool) bool {
	if e.Gap != nil {
		return yield(Notification{}, &GapError{Gap: *e.Gap})
	}
	return yield(e.Notification, nil)
}

// Wake blocks until a notification or a gap has arrived, or maxWait, which may be 0,
// has passed. It is for workers that poll a table of jobs: after each return, take jobs
// until none are left. Wake empties the queue, so a burst wakes it once, or a few times
// if it is large or there is a CatchUp. Wake discards the notifications; to read them,
// use All or Events. The error is that of ctx or, after the end of the subscription,
// that of Err.
func (s *Subscription) Wake(ctx context.Context, maxWait time.Duration) error {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	switch _, err := s.queue.next(ctx, timer.C); err {
	case nil, errAlarm:
		s.queue.takeAll(s.config.CatchUp != nil)
		return nil
	default:
		return s.whyEnded(err)
	}
}

// whyEnded returns Err's error if err is the end of the queue, and err otherwise.
func (s *Subscription) whyEnded(err error) error {
	if err == errEnd {
		return s.Err()
	}
	return err
}
