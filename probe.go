package pgnotify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A pooler in transaction mode makes each LISTEN, and passes on none of the
// notifications. Two numbers tell of a pooler: the pid that the start-up told, and that
// of the process which serves the session. Where they agree, the session hears. Where
// they differ, and where the process changes, that is not known, because a pooler in
// session mode has numbers of its own as well. Then another session sends a
// notification, which has to arrive.

// backendQuery asks for the process that serves a session, behind the LISTENs of a
// message, whose process it is then.
const backendQuery = "SELECT pg_catalog.pg_backend_pid()"

// errDeaf is the verdict on a session to which notifications do not come.
var errDeaf = fmt.Errorf("%w: notifications do not arrive over this connection; a pooler must be in session mode", ErrNotSupported)

// A trial is a delivery probe that is under way.
type trial struct {
	channel string
	backend uint32             // the process that listens for it
	patient time.Duration      // how long it waits for the notification
	waited  time.Duration      // how long it has waited; read it once verdict has come
	hush    chan chan struct{} // asks the session to make no request until the channel is closed
	arrived chan struct{}      // has a token after a notification has arrived
	verdict chan error         // nil, errDeaf, or why the probe tells nothing
	stop    context.CancelFunc // ends it
}

// direct reports whether the process that the start-up told of serves the session.
func (k *link) direct() bool { return k.backend != 0 && k.backend == k.pid() }

// doubtful reports whether a probe has to tell that notifications arrive.
func (k *link) doubtful() bool { return k.suspect || k.backend != 0 && k.backend != k.hearing }

// located notes which process has made a LISTEN.
func (l *Listener) located(k *link, backend uint32) {
	switch k.backend {
	case 0:
		k.backend = backend
	case backend:
	default:
		k.astray = true
		l.signal()
	}
}

// verdict returns the channel of the probe under way, or nil.
func (k *link) verdict() <-chan error {
	if k.trial == nil {
		return nil
	}
	return k.trial.verdict
}

// hush returns where the probe under way asks for quiet, or nil.
func (k *link) hush() <-chan chan struct{} {
	if k.trial == nil {
		return nil
	}
	return k.trial.hush
}

// rest makes no request for a while.
func (k *link) rest(ctx context.Context, over <-chan struct{}) {
	select {
	case <-over:
	case <-k.lost():
	case <-ctx.Done():
	}
}

// examine begins a probe if the session needs one, or lets those go on who wait for
// that to be known.
func (l *Listener) examine(ctx context.Context, k *link) error {
	switch {
	case k.trial != nil || k.again != nil:
		return nil
	case k.doubtful():
		return l.try(ctx, k)
	case k.backend != 0:
		l.settle(k)
	}
	return nil
}

// try begins a probe.
func (l *Listener) try(ctx context.Context, k *link) error {
	t := &trial{
		channel: "pgnotify_probe_" + rand.Text(),
		patient: l.config.HeartbeatTimeout - k.waited,
		hush:    make(chan chan struct{}),
		arrived: make(chan struct{}, 1),
		verdict: make(chan error, 1),
	}
	l.mu.Lock()
	k.trial = t
	k.settled = k.settled && k.failed > 0 // those go on who have waited for the first
	l.mu.Unlock()
	name := pq.QuoteIdentifier(t.channel)
	ctx, t.stop = context.WithCancel(ctx)
	values, err := k.row(ctx, "LISTEN "+name+";"+backendQuery, l.config.HeartbeatTimeout, 1)
	if err != nil {
		t.verdict <- err // for whoever ends it
		return err
	}
	t.backend = backendOf(values[0])
	l.located(k, t.backend)
	go func() { t.verdict <- l.sound(ctx, k, t, "NOTIFY "+name) }() // ends by t.stop; joined by endTrial
	return nil
}

// sound sends the notification, and returns the verdict. While the session has a request
// under way, a pooler in transaction mode lets it have what the server has for it. So only
// a notification that comes while the session makes none tells that others will. At first
// it makes none for a moment; if the notification comes after that, another one is sent,
// for which it waits as long as need be.
func (l *Listener) sound(ctx context.Context, k *link, t *trial, notify string) error {
	sender, err := l.connectElsewhere(ctx)
	if err != nil {
		return fmt.Errorf("delivery probe: %w", err)
	}
	defer sender.close()
	send := func() error { return sender.exec(ctx, notify, l.config.HeartbeatTimeout) }
	for quiet := t.step(); ; quiet = t.patient {
		heard, err := t.hearQuietly(ctx, send, quiet)
		if heard || err != nil {
			return err
		}
		if heard, err = t.await(ctx, t.patient); err != nil {
			return err
		}
		switch {
		case heard: // while the session made requests
			t.waited = 0
		case sender.host() != k.host(): // which may be another server
			return fmt.Errorf("delivery probe: a notification sent through %s does not arrive", sender.host())
		default:
			return errDeaf
		}
	}
}

// hearQuietly has a notification sent while the session makes no request, and reports
// whether it has arrived before t has waited for limit in all.
func (t *trial) hearQuietly(ctx context.Context, send func() error, limit time.Duration) (bool, error) {
	over := make(chan struct{})
	defer close(over)
	select {
	case t.hush <- over:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if err := send(); err != nil {
		return false, fmt.Errorf("delivery probe: %w", err)
	}
	return t.await(ctx, limit)
}

// step is the unit in which a probe waits.
func (t *trial) step() time.Duration { return max(t.patient/10, time.Millisecond) }

// await reports whether the notification has arrived before t has waited for limit in all.
func (t *trial) await(ctx context.Context, limit time.Duration) (bool, error) {
	for step := t.step(); t.waited < limit; {
		began := time.Now()
		select {
		case <-t.arrived:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(step):
		}
		if time.Since(began) < 2*step { // else the program did not run, and nobody has read
			t.waited += step
		}
	}
	return false, nil
}

// hear looks for the probe among notifications that have come over its session.
func (t *trial) hear(items []wire.Notification) {
	ours := func(n wire.Notification) bool { return n.Channel == t.channel }
	if slices.ContainsFunc(items, ours) {
		select {
		case t.arrived <- struct{}{}:
		default:
		}
	}
}

// endTrial ends the probe under way, if there is one, before its verdict.
func (l *Listener) endTrial(k *link) {
	if t := k.trial; t != nil {
		t.stop()
		<-t.verdict
		k.waited += t.waited
		l.forgetTrial(k)
	}
}

func (l *Listener) forgetTrial(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.trial = nil
}

// seeTrial returns the channels of a heartbeat without that of the probe under way. If
// the session does not listen for the probe any more, it ends, and another one is to
// begin, which has the rest of the time.
func (l *Listener) seeTrial(k *link, listening []string, moved bool) []string {
	if k.trial == nil {
		return listening
	}
	at := slices.Index(listening, k.trial.channel)
	if at < 0 || moved {
		l.endTrial(k)
	}
	if at >= 0 {
		listening = slices.Delete(listening, at, at+1)
	}
	return listening
}

// judge acts on the verdict of a probe.
func (l *Listener) judge(ctx context.Context, k *link, verdict error) error {
	t := k.trial
	t.stop()
	if errors.Is(verdict, errDeaf) {
		l.condemn()
		l.forgetTrial(k)
		return verdict
	}
	if k.waited = 0; verdict == nil {
		k.suspect, k.hearing, k.failed = false, t.backend, 0
		l.deaf = false
	} else {
		k.failed++
		delay := l.backoff(k.failed + 1)
		k.again = time.After(delay)
		l.tell(ListenerEvent{Kind: ListenerProbeFailed, Err: verdict, Host: k.host(), PID: k.pid(), Attempt: k.failed, Delay: delay})
	}
	l.forgetTrial(k)
	if err := k.exec(ctx, "UNLISTEN "+pq.QuoteIdentifier(t.channel), l.config.HeartbeatTimeout); err != nil {
		return err
	}
	if verdict != nil || !k.doubtful() {
		l.settle(k)
	}
	return l.reconcile(ctx, k) // which has waited for a suspect
}

// condemn tells those who wait to hear for the first time that they will not. The
// sessions to come are probed from the start.
func (l *Listener) condemn() {
	l.deaf = true
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.subs {
		if !s.live {
			l.endLocked(s, errDeaf)
		}
	}
}

// settle lets those go on who have waited to know whether the session hears.
func (l *Listener) settle(k *link) {
	if k.settled {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k.settled = true
	for s := range l.subs {
		if !s.live && s.missing == 0 {
			s.hears()
		}
	}
	if len(l.pings) > 0 {
		l.signal()
	}
}

// connectElsewhere opens another session, which the caller closes.
func (l *Listener) connectElsewhere(ctx context.Context) (*link, error) {
	bounded, stop := l.boundConnect(ctx)
	defer stop()
	driverConn, err := l.connectCaught(bounded)
	if err != nil {
		return nil, err
	}
	k := &link{driverConn: driverConn}
	if k.conn, err = Unwrap(driverConn); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}
