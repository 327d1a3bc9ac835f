package pgnotify

import (
	"context"
	"iter"
	"time"
)

// An Event is something that a subscriber hears: a notification or, where Gap is
// not nil, a gap, which is the subscriber's own.
type Event struct {
	Notification
	Gap *Gap
}

// Events returns the channel of what the subscriber hears, always the same. It is closed
// when the subscription has ended, with what was in the queue still to be taken (unless
// there is a CatchUp, or [OverflowDropOldest]), and Err then tells why. Where many come
// together, All costs less.
func (s *Subscription) Events() <-chan Event {
	s.opened.Do(s.open)
	return s.queue.out
}

func (s *Subscription) open() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	switch {
	case s.stop != nil: // the pump's outlet is there
	case s.config.Overflow == OverflowDropOldest && !s.ended:
		s.startPumpLocked()
	default:
		s.queue.open()
	}
}

// All iterates over the notifications. A gap is a *[GapError], after which the
// iteration goes on if the loop does; any other error ends it: that of ctx or, when
// there is nothing left to take, what Err tells. Breaking out of the loop loses nothing.
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

// yieldQueued yields what is in the queue, as long as that takes no waiting, and
// reports whether the loop goes on.
func (s *Subscription) yieldQueued(done <-chan struct{}, yield func(Notification, error) bool) bool {
	var e Event
	for {
		select {
		case <-done:
			return true // next tells
		default:
		}
		if !s.queue.take(&e) {
			return true // next tells
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

// Wake waits until there is something to look at: a notification, a gap, or that
// maxWait has passed, which may be 0. It takes all that is in the queue, so that a
// burst wakes once, or a few times if it is large; who needs the notifications themselves must not use it. It is
// what a worker waits with for jobs in a table: after each return it takes jobs
// until there are none. Where there is a CatchUp, or [OverflowDropOldest] with Events, a
// burst may wake it more than once. Its error is that of ctx, or what Err tells.
func (s *Subscription) Wake(ctx context.Context, maxWait time.Duration) error {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	switch _, err := s.queue.next(ctx, timer.C); err {
	case nil, errAlarm:
		s.queue.takeAll()
		return nil
	default:
		return s.whyEnded(err)
	}
}

// whyEnded returns err, or what Err tells, if that is the end of the queue.
func (s *Subscription) whyEnded(err error) error {
	if err == errEnd {
		return s.Err()
	}
	return err
}
