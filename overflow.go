package pgnotify

import (
	"time"
)

// overflow deals with n notifications for which there is no room, or that come while a
// gap is owed; not for OverflowDropOldest.
func (s *Subscription) overflow(n int) {
	if s.config.Overflow == OverflowDisconnect {
		s.l.tellSlow(s)
		s.l.endLocked(s, ErrSlowConsumer)
		return
	}
	s.drop(n)
}

// drop counts n notifications that the subscriber does not get. The gap that tells
// of them comes when its number is final: when half of the queue is free, so that more
// than the gap fits, or when nothing has come for a moment. Then the last place in the
// queue will do, which is kept for it.
func (s *Subscription) drop(n int) {
	if s.owed == nil {
		s.l.tellSlow(s)
		s.l.sweepLater(s)
	}
	s.owed = s.owed.dropped(n)
	s.l.numbers.Dropped += uint64(n)
}

// dropAll empties the queue and puts a gap into it. The gaps that were in it become
// a part of that.
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

// owe has a gap come before anything newer: at once where there is room, or with
// one that is to come already.
func (s *Subscription) owe(gap *Gap) {
	if gap == nil {
		return
	}
	own := *gap
	own.To = time.Now()
	if s.owed != nil { // of an overflow, which says less
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

// mayPay reports whether a gap that is owed may go into the queue before what has come:
// when half of the queue is free. Where the policy is to disconnect, it is no gap of an
// overflow, and any place will do.
func (s *Subscription) mayPay() bool {
	n := s.queue.len()
	return n <= s.queue.half() || s.config.Overflow == OverflowDisconnect && n < s.queue.size
}

// pay puts the gap that is owed into the queue, where the caller has seen room, or is
// about to close it.
func (s *Subscription) pay() {
	s.queue.putOne(Event{Gap: s.owed})
	s.owed = nil
	s.l.numbers.Gaps++
}

// How often the queues of slow subscribers are looked at, while there are any: who takes
// does not tell the Listener.
const (
	minSweep  = time.Millisecond
	maxSweep  = 100 * time.Millisecond
	quietTime = 50 * time.Millisecond // a burst is over when nothing has come for that long
)

// sweepLater has the queue of s looked at until its gap is in it.
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

// sweepOnce reports whether there is a gap still to come.
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

// slowSilence is how long a slow subscriber is not told of again.
const slowSilence = time.Second

// tellSlow has OnEvent told of a subscriber who does not keep up.
func (l *Listener) tellSlow(s *Subscription) {
	if now := time.Now(); now.Sub(s.toldSlow) >= slowSilence {
		s.toldSlow = now
		l.tell(ListenerEvent{Kind: ListenerSlowConsumer, Channels: s.config.Channels})
	}
}
