package pgnotify

import (
	"context"
	"math/rand/v2"
	"time"
)

// run is the Listener's goroutine. It has a session, or is about to have one.
//
//	    ┌─ session lost, LISTEN refused ──────────────────────────┐
//	    ▼                                                         │
//	(wait) ──▶ connect ──▶ LISTEN to all ──▶ serve: LISTEN, UNLISTEN, heartbeats,
//	    ▲         │             │            Pings, delivery probes
//	    └─ failed ┴─────────────┘
//
// Close ends it in any state.
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
		if k == nil || !k.listened { // no ListenerDisconnected will report it
			e.Err = err
		}
		l.tell(e)
		if !l.wait(ctx, delay) {
			return
		}
	}
}

// over ends the subscriptions, and the Pings that wait.
func (l *Listener) over() {
	l.mu.Lock()
	l.closed = true
	for s := range l.subs {
		l.endLocked(s, ErrClosed)
	}
	l.refusePingsLocked(ErrClosed)
	l.mu.Unlock()
	l.tell(ListenerEvent{Kind: ListenerClosed})
	close(l.stopped)
}

// goodSession is how long a session must live to be replaced at once. A server whose
// sessions end as soon as they begin is treated like one that gives none.
const goodSession = time.Second

// failures returns the number of failed attempts in a row, now that k is lost or, if k
// is nil, could not be opened.
func (l *Listener) failures(before int, k *link) int {
	if k != nil && k.listened && time.Since(k.since) > goodSession {
		return 1
	}
	return before + 1
}

// backoff returns how long to wait after that many failures in a row. After the first
// it does not wait.
func (l *Listener) backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return rand.N(l.ceiling(failures - 1))
}

// ceiling returns the upper bound of backoff.
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

// wait waits for d, and answers Pings meanwhile. It reports false when ctx has ended.
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
			l.refusePings(l.whyNoSession())
		}
	}
}

func (l *Listener) whyNoSession() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &noSessionError{l.last}
}

// A noSessionError says that a Listener waits for another session, because of err.
type noSessionError struct{ err error }

func (e *noSessionError) Error() string {
	return "the listener has no session: " + withoutPackage(e.err)
}

func (e *noSessionError) Unwrap() error { return e.err }

// serve uses a session until it is lost or must be given up.
func (l *Listener) serve(ctx context.Context, k *link) error {
	if err := l.listenToNothing(ctx, k); err != nil {
		return err
	}
	l.have(k)
	defer l.endTrial(k)
	beats, stop := l.beats()
	defer stop()
	err := l.reconcile(ctx, k)
	for {
		if err == nil {
			err = l.examine(ctx, k)
		}
		if err != nil {
			return err
		}
		if !k.listened && k.trial == nil {
			select {
			case <-k.lost(): // with nothing to listen to, no request has shown it
				return nil
			default:
			}
			l.connected(k)
		}
		select {
		case <-ctx.Done():
			return ErrClosed
		case <-k.lost():
			return nil // k.why has the reason
		case <-beats:
			err = l.beat(ctx, k)
		case over := <-k.hush():
			k.rest(ctx, over)
		case verdict := <-k.verdict():
			err = l.judge(ctx, k, verdict)
		case <-k.again:
			k.again = nil
		case <-l.wake:
			if err = l.reconcile(ctx, k); err == nil && (k.astray || l.pinged()) {
				err = l.beat(ctx, k)
			}
		}
	}
}

// beats returns the ticker of the heartbeat.
func (l *Listener) beats() (<-chan time.Time, func()) {
	if l.config.Heartbeat < 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(l.config.Heartbeat)
	return ticker.C, ticker.Stop
}

// have makes k the session of the Listener, and marks all topics as changed, because k
// listens to none of them yet.
func (l *Listener) have(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link = k
	k.certain = k.since
	for _, t := range l.topics {
		l.changed[t] = struct{}{}
	}
}

// connected reports that k listens to all channels that are wanted.
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

// tellGap reports a gap, if there is one, to OnEvent. The gap ends now.
func (l *Listener) tellGap(gap *Gap) {
	if gap != nil {
		told := *gap
		told.To = time.Now()
		l.tell(ListenerEvent{Kind: ListenerGap, Gap: &told})
	}
}

// lose is called when k was lost or given up because of err, and with a nil k when no
// session could be opened.
func (l *Listener) lose(k *link, err error) {
	l.mu.Lock()
	l.last = err
	l.refusePingsLocked(&noSessionError{err})
	if k != nil && l.link == k {
		l.link, l.flight = nil, nil
		l.breakLocked(k, err)
	}
	l.mu.Unlock()
	if k != nil && k.listened {
		l.tell(ListenerEvent{Kind: ListenerDisconnected, Err: err, Host: k.host(), PID: k.pid()})
	}
}

// breakLocked marks all topics as not heard. Each live subscriber gets a gap as soon as
// its topics are heard again.
func (l *Listener) breakLocked(k *link, err error) {
	gap := &Gap{Cause: GapReconnect, Err: err, From: k.certain}
	told, heard := *gap, k.listened // by OnEvent, for all subscribers
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
		case s.broken.Cause == GapListenLost: // which was being repaired
			s.broken = &Gap{Cause: gap.Cause, Err: gap.Err, From: s.broken.From}
		}
		if s.live {
			heard = true
			told.From = earlier(told.From, s.broken.From)
		}
	}
	if heard && l.outage == nil {
		l.outage = &told
	}
}

// listenToNothing undoes the LISTEN of Config.OnConnect.
func (l *Listener) listenToNothing(ctx context.Context, k *link) error {
	if !k.conn.s.wire.Listened() {
		return nil
	}
	return k.exec(ctx, "UNLISTEN *", l.config.HeartbeatTimeout)
}

// reconcile makes the session listen to the wanted channels and no others, in one round
// trip. Changes that come meanwhile are left to the next call, so that heartbeats get
// their turn however fast subscribers come and go.
func (l *Listener) reconcile(ctx context.Context, k *link) error {
	if k.suspect && !k.settled { // a LISTEN would tell subscribers to look again, and perhaps for nothing
		return nil
	}
	c := l.takeChange()
	if c.size() == 0 {
		return nil
	}
	if err := l.apply(ctx, k, c); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.changed) > 0 {
		l.signal()
	}
	return nil
}

// apply makes a change. If the server refuses it because of a channel, apply tries the
// two halves, and so on, so that one bad channel does not keep the others from being
// heard.
func (l *Listener) apply(ctx context.Context, k *link, c *change) error {
	err := l.send(ctx, k, c)
	if err == nil || !isChannelFault(err) {
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
		if err := l.apply(ctx, k, half); err != nil {
			return err
		}
	}
	return nil
}

// refuse ends the subscriptions to a channel that the server refuses. A refused
// UNLISTEN is ignored: its notifications have no subscriber.
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
