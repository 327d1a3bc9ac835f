package pgnotify

import (
	"time"
)

// overflow handles n notifications that do not fit, or that arrive while a gap is owed.
// It is not used with OverflowDropOldest.
func (s *Subscription) overflow(n int) {
	if s.config.Overflow == OverflowDisconnect {
		s.l.tellSlow(s)
		s.l.endLocked(s, ErrSlowConsumer)
		return
	}
	s.drop(n)
}

// drop counts n notifications that the subscriber does not get. The gap that reports
// them enters the queue when its count is final: when half of the queue is free, so
// that more than the gap fits, or when nothing has come for a moment, in which case it
// may use the last place, reserved for it.
func (s *Subscription) drop(n int) {
	s.l.tellSlow(s)
	if s.owed == nil {
		s.l.sweepLater(s)
	}
	s.owed = s.owed.dropped(n)
	s.l.numbers.Dropped += uint64(n)
}

// dropAll empties the queue and puts one gap into it, which includes the gaps that were
// in the queue.
func (s *Subscription) dropAll() {
	dropped, gap := s.queue.drain()
	s.owed = gap.and(s.owed)
	if dropped > 0 {
		s.drop(dropped)
		s.owed.From = earlier(s.owed.From, s.queue.oldest)
	}
	if s.owed != nil {
		s.pay()
	}
}

// owe puts a gap before anything newer: at once if there is room, or else later, merged
// with a gap that is already owed.
func (s *Subscription) owe(gap *Gap) {
	if gap == nil {
		return
	}
	own := *gap
	own.To = time.Now()
	if s.owed != nil { // of an overflow, the less informative cause
		own.From = earlier(own.From, s.owed.From)
		own.Dropped += s.owed.Dropped
	}
	s.owed = &own
	if s.queue.len() < s.queue.size {
		s.pay()
	} else {
		s.l.sweepLater(s)
	}
}

// mayPay reports whether an owed gap may go into the queue before what has just
// arrived: if half of the queue is free. With OverflowDisconnect the gap is not one of
// an overflow, and any place will do.
func (s *Subscription) mayPay() bool {
	n := s.queue.len()
	return n <= s.queue.half() || s.config.Overflow == OverflowDisconnect && n < s.queue.size
}

// pay puts the owed gap into the queue. The caller has seen room, or is about to close
// the queue.
func (s *Subscription) pay() {
	s.queue.putOne(Event{Gap: s.owed})
	s.owed = nil
	s.l.numbers.Gaps++
}

// How often the queues of slow subscribers are checked while there are any. Takers do
// not notify the Listener.
const (
	minSweep  = time.Millisecond
	maxSweep  = 100 * time.Millisecond
	quietTime = 50 * time.Millisecond // a burst is over when nothing has come for this long
)

// sweepLater has the queue of s checked until its gap is in it.
func (l *Listener) sweepLater(s *Subscription) {
	l.full[s] = struct{}{}
	if !l.sweeping {
		l.sweeping = true
		go l.sweep() // ends when no gap is owed; joined by Close
	}
}

func (l *Listener) sweep() {
	for wait := minSweep; ; wait = min(2*wait, maxSweep) {
		select {
		case <-time.After(wait):
		case <-l.stopped:
		}
		if !l.sweepOnce() {
			return
		}
	}
}

// sweepOnce reports whether any gap is still owed.
func (l *Listener) sweepOnce() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.full {
		if s.owed != nil {
			quiet := time.Since(s.owed.To) >= quietTime
			if n := s.queue.len(); n <= s.queue.half() || quiet && n < s.queue.size {
				s.pay()
			}
		}
		if s.owed == nil {
			delete(l.full, s)
		}
	}
	l.sweeping = len(l.full) > 0
	if !l.sweeping {
		l.idle.Broadcast()
	}
	return l.sweeping
}

// Bounds of the reports of slow subscribers: the shortest time between two of the same
// one, and how many there may be in that time, so that they crowd out no other event.
const (
	slowSilence = time.Second
	maxSlow     = 32
)

// A slowReport counts the reports of slow subscribers. The Listener's lock guards it.
type slowReport struct {
	since time.Time
	n     int
}

// tellSlow reports to OnEvent that a subscriber does not keep up.
func (l *Listener) tellSlow(s *Subscription) {
	now := time.Now()
	if now.Sub(s.toldSlow) < slowSilence {
		return
	}
	s.toldSlow = now
	if now.Sub(l.slow.since) >= slowSilence {
		l.slow = slowReport{since: now}
	}
	if l.slow.n++; l.slow.n <= maxSlow && l.events.Queued() < maxListenerEvents/2 {
		l.tell(ListenerEvent{Kind: ListenerSlowConsumer, Channels: s.config.Channels})
	}
}
