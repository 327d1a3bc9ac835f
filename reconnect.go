package pgnotify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// run is the Listener's goroutine: it has a session, or is about to have one.
//
//	    ┌─ session lost, LISTEN refused ──────────────────────────┐
//	    ▼                                                         │
//	(wait) ──▶ connect ──▶ probe ──▶ LISTEN to all ──▶ serve: LISTEN, UNLISTEN,
//	    ▲         │                       │            heartbeats, Pings
//	    └─ failed ┴───────────────────────┘
//
// Close ends it wherever it is.
func (l *Listener) run(ctx context.Context) {
	defer l.over()
	for failures := 0; ; {
		k, err := l.connect(ctx)
		if err == nil {
			err = k.why(l.serve(ctx, k))
			k.close()
		}
		if ctx.Err() != nil {
			return
		}
		failures = l.failures(failures, k)
		l.lose(k, err)
		delay := l.backoff(failures)
		e := ListenerEvent{Kind: ListenerReconnecting, Attempt: failures, Delay: delay}
		if k == nil || !k.listened { // nobody was told otherwise
			e.Err = err
		}
		l.tell(e)
		if !l.wait(ctx, delay) {
			return
		}
	}
}

// over ends what there is.
func (l *Listener) over() {
	l.mu.Lock()
	l.closed = true
	for s := range l.subs {
		l.endLocked(s, ErrClosed)
	}
	l.answerLocked(Health{}, ErrClosed)
	l.mu.Unlock()
	l.tell(ListenerEvent{Kind: ListenerClosed})
	close(l.stopped)
}

// goodSession is how long a session has to live, at the least, to be worth being
// replaced at once. A server whose sessions end as soon as they have begun is left
// in peace like one that gives none.
const goodSession = time.Second

// failures returns how many attempts in a row have come to nothing, when k is lost
// or, where it is nil, was not to be had.
func (l *Listener) failures(before int, k *link) int {
	if k != nil && k.listened && time.Since(k.since) > max(goodSession, l.ceiling(before+1)) {
		return 1
	}
	return before + 1
}

// backoff returns how long to wait after as many failures in a row: not at all
// after the first.
func (l *Listener) backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return rand.N(l.ceiling(failures - 1))
}

// ceiling is what backoff stays below.
func (l *Listener) ceiling(failures int) time.Duration {
	d := l.config.MinBackoff
	for range failures - 1 {
		if d > l.config.MaxBackoff/2 {
			return l.config.MaxBackoff
		}
		d *= 2
	}
	return min(d, l.config.MaxBackoff)
}

// wait waits for d, and answers a Ping meanwhile. It reports false when ctx has
// ended.
func (l *Listener) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-l.wake:
			l.answer(Health{}, l.whyNoSession())
		}
	}
}

func (l *Listener) whyNoSession() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("the listener has no session: %w", l.last)
}

// serve does on a session what there is to do, until it is lost or to be given up.
func (l *Listener) serve(ctx context.Context, k *link) error {
	if err := l.probe(ctx, k); err != nil {
		return err
	}
	if err := l.listenToNothing(ctx, k); err != nil {
		return err
	}
	l.have(k)
	if err := l.reconcile(ctx, k); err != nil {
		return err
	}
	select {
	case <-k.lost(): // where there was nothing to listen to, nobody has noticed
		return nil
	default:
	}
	l.connected(k)
	beats, stop := l.beats()
	defer stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ErrClosed
		case <-k.lost():
			return nil // the session says why
		case <-beats:
			err = l.beat(ctx, k)
		case <-l.wake:
			if err = l.reconcile(ctx, k); err == nil && l.pinged() {
				err = l.beat(ctx, k)
			}
		}
		if err != nil {
			return err
		}
	}
}

// beats returns the clock of the heartbeat.
func (l *Listener) beats() (<-chan time.Time, func()) {
	if l.config.Heartbeat < 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(l.config.Heartbeat)
	return ticker.C, ticker.Stop
}

// have makes k the session that everything is heard over, and all topics such as
// it has to be told of.
func (l *Listener) have(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link = k
	k.heard, k.certain = k.since, k.since
	for _, t := range l.topics {
		l.changed[t] = struct{}{}
	}
}

// connected tells that k listens to all that is wanted.
func (l *Listener) connected(k *link) {
	l.mu.Lock()
	gap := l.outage
	l.outage, l.last = nil, nil
	k.listened = true
	if gap != nil {
		l.numbers.Reconnects++
	}
	l.mu.Unlock()
	l.tellGap(gap)
	l.tell(ListenerEvent{Kind: ListenerConnected, Host: k.host(), PID: k.pid()})
}

// tellGap has OnEvent told of a gap that has ended, if there is one.
func (l *Listener) tellGap(gap *Gap) {
	if gap != nil {
		told := *gap
		told.To = time.Now()
		l.tell(ListenerEvent{Kind: ListenerGap, Gap: &told})
	}
}

// lose is called when k is lost or given up because of err, and with nil when
// there was none to be had.
func (l *Listener) lose(k *link, err error) {
	l.mu.Lock()
	l.last = err
	l.answerLocked(Health{}, fmt.Errorf("the listener has no session: %w", err))
	if k != nil && l.link == k {
		l.link, l.flight = nil, nil
		l.breakLocked(k, err)
	}
	l.mu.Unlock()
	if k != nil && k.listened {
		l.tell(ListenerEvent{Kind: ListenerDisconnected, Err: err, Host: k.host(), PID: k.pid()})
	}
}

// breakLocked marks all topics as not heard any more, and has a gap come, once they
// are, for each subscriber who has heard.
func (l *Listener) breakLocked(k *link, err error) {
	gap := &Gap{Cause: GapReconnect, Err: err, From: k.certain}
	if k.listened && l.outage == nil {
		l.outage = gap
	}
	for _, t := range l.topics {
		t.asked, t.heard = false, false
		if len(t.subs) == 0 {
			l.forgetLocked(t)
		}
	}
	for s := range l.subs {
		s.missing = len(s.seats)
		switch {
		case !s.live:
		case s.broken == nil:
			s.broken = gap
		case s.broken.Cause == GapListenLost: // that was being mended
			s.broken = &Gap{Cause: gap.Cause, Err: gap.Err, From: s.broken.From}
		}
	}
}

// listenToNothing ends what the probe listens to, or Config.OnConnect: what is heard of
// a channel from then on tells that its LISTEN has been made.
func (l *Listener) listenToNothing(ctx context.Context, k *link) error {
	if !k.conn.s.wire.Listened() {
		return nil
	}
	return k.exec(ctx, "UNLISTEN *", l.config.HeartbeatTimeout)
}

// reconcile has the session listen to what is wanted and nothing else, in one
// round trip. What is changed meanwhile is for the next time, so that heartbeats have
// their turn however fast subscribers come and go.
func (l *Listener) reconcile(ctx context.Context, k *link) error {
	c := l.takeChange()
	if c.size() == 0 {
		return nil
	}
	if err := l.make(ctx, k, c); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k.heard = time.Now()
	if len(l.changed) > 0 {
		l.signal()
	}
	return nil
}

// channelTime is how long the server may take for a LISTEN, beside the round trip:
// it looks at all the others.
const channelTime = 2 * time.Millisecond

// make makes a change. Where the server refuses it because of a channel, the halves
// of it are tried, and so on: one bad channel does not keep the others from being
// heard.
func (l *Listener) make(ctx context.Context, k *link, c *change) error {
	l.begin(c)
	limit := l.config.HeartbeatTimeout + time.Duration(c.size())*channelTime
	err := k.exec(ctx, c.statements(), max(limit, l.config.HeartbeatTimeout)) // it may be as long as can be
	if err == nil {
		l.mu.Lock()
		l.acknowledgeLocked(c)
		l.mu.Unlock()
		return nil
	}
	l.failed(c)
	if !isChannelFault(err) {
		return err
	}
	if c.size() == 1 || len(c.listen) == 0 {
		l.refuse(c, err)
		return nil
	}
	for _, half := range c.halves() {
		if half.size() == 0 {
			continue
		}
		if err := l.make(ctx, k, half); err != nil {
			return err
		}
	}
	return nil
}

// refuse ends the subscriptions to a channel that the server refuses. An UNLISTEN
// that is refused is left at that: what comes is nobody's.
func (l *Listener) refuse(c *change, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range c.unlisten {
		if len(t.subs) == 0 {
			l.forgetLocked(t)
		}
	}
	for _, t := range c.listen {
		for len(t.subs) > 0 {
			l.endLocked(t.subs[len(t.subs)-1], err)
		}
	}
}
