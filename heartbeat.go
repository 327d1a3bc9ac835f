package pgnotify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"
)

// Health is the result of [Listener.Ping].
type Health struct {
	ConnectedSince time.Time     // when the present session began
	Host           string        // that the session is connected to
	PID            uint32        // of the session's server process
	LastHeard      time.Time     // when something last arrived over it, before the Ping
	RoundTrip      time.Duration // of the Ping
	InRecovery     bool          // the server is a standby
	QueueUsage     float64       // how full the server's notification queue is, from 0 to 1
	Channels       int           // that the session listens to
}

// A ping is a Ping that waits for its answer. The Listener's lock guards asked.
type ping struct {
	asked  bool          // the heartbeat that answers it is under way
	done   chan struct{} // closed when the answer is there
	health Health
	err    error
}

// Ping asks the server for the health of the session. Like the heartbeat, it repairs
// what it finds missing. While the Listener is connecting, Ping waits; while the
// Listener waits before another attempt, Ping fails at once with the error of the last
// one, which is [ErrNotSupported] if notifications did not arrive over the session.
// Ping ends with ctx. After Close its error is [ErrClosed].
func (l *Listener) Ping(ctx context.Context) (Health, error) {
	p := &ping{done: make(chan struct{})}
	if err := l.ping(ctx, p); err != nil {
		return Health{}, &opError{"ping", err}
	}
	return p.health, nil
}

func (l *Listener) ping(ctx context.Context, p *ping) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.enqueue(p); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		l.dequeue(p)
		return l.whyNot(ctx.Err())
	}
}

func (l *Listener) enqueue(p *ping) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.pings = append(l.pings, p)
	l.signal()
	return nil
}

// dequeue removes a Ping that was given up.
func (l *Listener) dequeue(p *ping) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.pings, p); i >= 0 {
		l.pings = slices.Delete(l.pings, i, i+1)
	}
}

// pinged reports whether a Ping waits for an answer.
func (l *Listener) pinged() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pings) > 0
}

// ask marks the Pings that the heartbeat about to be sent will answer.
func (l *Listener) ask() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pings {
		p.asked = true
	}
}

// answer answers the Pings that the heartbeat was asked for. Others came while it was
// under way, and get one of their own.
func (l *Listener) answer(health Health) {
	l.mu.Lock()
	defer l.mu.Unlock()
	later := l.pings[:0]
	for _, p := range l.pings {
		if !p.asked {
			later = append(later, p)
			continue
		}
		p.health = health
		close(p.done)
	}
	clear(l.pings[len(later):])
	if l.pings = later; len(later) > 0 {
		l.signal()
	}
}

// refusePings fails all Pings that wait.
func (l *Listener) refusePings(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusePingsLocked(err)
}

func (l *Listener) refusePingsLocked(err error) {
	for _, p := range l.pings {
		p.err = err
		close(p.done)
	}
	l.pings = nil
}

const heartbeatQuery = `SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),
	pg_catalog.pg_notification_queue_usage(), ARRAY(SELECT pg_catalog.pg_listening_channels())::pg_catalog.text`

// beat is a heartbeat: it asks whether the session is alive and what it listens to, and
// listens again to what is missing.
func (l *Listener) beat(ctx context.Context, k *link) error {
	l.ask()
	health := Health{ConnectedSince: k.since, Host: k.host(), PID: k.pid(), LastHeard: k.lastHeard()}
	start := time.Now()
	values, err := k.row(ctx, heartbeatQuery, l.config.HeartbeatTimeout, 4)
	if err != nil {
		return err
	}
	health.RoundTrip = time.Since(start)
	var listening pq.StringArray
	if err := listening.Scan(values[3]); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	backend := backendOf(values[0])
	health.InRecovery, _ = values[1].(bool)
	health.QueueUsage, _ = values[2].(float64)
	moved := k.backend != 0 && k.backend != backend // behind a pooler
	k.backend, k.astray = backend, false
	channels := l.seeTrial(k, listening, moved)
	health.Channels = len(channels)
	gap := l.check(k, channels, moved, start)
	l.note(health)
	if gap != nil {
		if err := l.reconcile(ctx, k); err != nil {
			return err
		}
		l.tellGap(gap)
		health.Channels = l.listening()
	}
	if err := l.examine(ctx, k); err != nil {
		return err
	}
	if k.settled {
		l.answer(health)
	}
	return nil
}

// listening returns how many channels the session listens to, as far as the Listener
// knows.
func (l *Listener) listening() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.topics {
		if t.heard {
			n++
		}
	}
	return n
}

// note keeps the result of a heartbeat for Stats.
func (l *Listener) note(health Health) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers.HeartbeatRoundTrip = health.RoundTrip
}

// check compares what the session listens to with what it was told to. It returns a gap
// if a channel is missing. When the session has moved to another server process, all
// are.
func (l *Listener) check(k *link, listening []string, moved bool, asked time.Time) (gap *Gap) {
	heard := make(map[string]bool, len(listening))
	for _, name := range listening {
		heard[name] = !moved
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	from := k.certain
	if !k.doubtful() {
		k.certain = asked
	}
	for name, t := range l.topics {
		if !t.heard || heard[name] {
			continue
		}
		if gap == nil {
			gap = &Gap{Cause: GapListenLost, From: from}
		}
		l.missLocked(t, gap)
	}
	return gap
}

// missLocked marks a topic as no longer heard.
func (l *Listener) missLocked(t *topic, gap *Gap) {
	t.heard = false
	l.changed[t] = struct{}{}
	for _, s := range t.subs {
		s.missing++
		if s.live && s.broken == nil {
			s.broken = gap
		}
	}
}
