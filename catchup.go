package pgnotify

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// startPumpLocked starts the goroutine of a subscription that has a CatchUp, or that
// drops the oldest events and has an outlet. The latter needs it because a gap may be
// replaced by a larger one, and a receiver on a buffered Go channel could meanwhile
// take what stands behind the gap.
func (s *Subscription) startPumpLocked() {
	s.queue.openPumped()
	ctx, stop := context.WithCancel(background)
	s.stop = stop
	s.l.pumps++
	go s.pump(ctx) // ends with the subscription; joined by the Listener's Close, outside CatchUp
}

// pump passes on the events of the queue, and calls CatchUp in place of gaps.
func (s *Subscription) pump(ctx context.Context) {
	defer s.pumpOver()
	for {
		e, err := s.queue.nextInRing(ctx, nil, true)
		if err != nil || ctx.Err() != nil { // in the latter case CatchUp may not have succeeded
			return
		}
		if e.Gap != nil && s.config.CatchUp != nil {
			s.catchUp(ctx, *e.Gap)
			continue
		}
		select {
		case s.queue.out <- e:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Subscription) pumpOver() {
	s.l.end(s, ErrClosed) // no-op unless CatchUp ended the goroutine
	close(s.queue.out)
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.pumps--
	s.l.idle.Broadcast()
}

// catchUp calls CatchUp until it succeeds or the subscription ends.
func (s *Subscription) catchUp(ctx context.Context, gap Gap) {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		delay := s.l.backoff(attempt)
		if s.caughtUp(ctx, gap, delay) {
			return
		}
		pause(ctx, delay)
	}
}

// caughtUp calls CatchUp once. It logs the error if CatchUp will be called again.
func (s *Subscription) caughtUp(ctx context.Context, gap Gap, delay time.Duration) bool {
	s.catching(+1)
	defer s.catching(-1)
	err := s.callCatchUp(ctx, gap)
	if err == nil || ctx.Err() != nil {
		return true
	}
	s.l.config.Logger.Warn("pgnotify: CatchUp failed", "channels", s.config.Channels, "error", err, "again in", delay)
	return false
}

func (s *Subscription) callCatchUp(ctx context.Context, gap Gap) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
			s.l.config.Logger.Error("pgnotify: CatchUp panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return s.config.CatchUp(ctx, gap)
}

// catching counts the goroutines that run the program's code: CatchUp, and its log.
func (s *Subscription) catching(n int) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.catching += n
	s.l.idle.Broadcast()
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
