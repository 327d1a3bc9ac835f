package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/dispatch"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// ListenerConfig configures how a [Listener] reconnects and how it verifies that its
// session works. A zero field means the default stated in its comment.
type ListenerConfig struct {
	// MinBackoff and MaxBackoff bound the wait before an attempt to reconnect. The
	// first attempt after a loss is made at once. Before the n-th attempt after that,
	// the wait is a random time below MinBackoff·2ⁿ⁻¹ and below MaxBackoff. 0: 50 ms
	// and 30 s.
	MinBackoff, MaxBackoff time.Duration

	// Heartbeat is the interval at which the Listener asks its session whether it is
	// alive and still listens. 0: 15 s; negative: never, which leaves a silent network
	// to TCP.
	Heartbeat time.Duration

	// HeartbeatTimeout bounds how long the session may take to answer a heartbeat, or a
	// LISTEN, which gets 2 ms more for each channel. After that the session is given
	// up. 0: 5 s.
	HeartbeatTimeout time.Duration

	// DeliveryProbe verifies, for each new session, that notifications arrive, by
	// sending one from a second session opened for the purpose. If it does not arrive
	// within HeartbeatTimeout, as behind a pooler in transaction mode, the session is
	// given up with [ErrNotSupported], which is also the error of the Subscribes that
	// wait. A probe that tells nothing, such as one that cannot connect, is
	// [ListenerProbeFailed], and the session goes on.
	//
	// A Listener does this by itself where it may be needed: when the server process
	// that makes a LISTEN, or answers a heartbeat, is not the one of which the start-up
	// told, or another than before, and for further sessions while one has failed that
	// test. So the option is only for poolers that hide what they do.
	DeliveryProbe bool

	// OnEvent is called with each event of the Listener, one at a time and in order, on
	// a goroutine that holds no lock and that nothing waits for. It may use the
	// Listener, and close it. While it blocks, up to 256 events wait; later ones are
	// dropped, except [ListenerClosed], the last one.
	OnEvent func(ListenerEvent)

	// Logger records the same events for people to read. nil: [slog.Default].
	Logger *slog.Logger
}

// Defaults of ListenerConfig.
const (
	defaultMinBackoff       = 50 * time.Millisecond
	defaultMaxBackoff       = 30 * time.Second
	defaultHeartbeat        = 15 * time.Second
	defaultHeartbeatTimeout = 5 * time.Second
)

// withDefaults returns a copy of c, which may be nil, with its defaults filled in.
func (c *ListenerConfig) withDefaults() (ListenerConfig, error) {
	var config ListenerConfig
	if c != nil {
		config = *c
	}
	if config.MinBackoff < 0 || config.MaxBackoff < 0 || config.HeartbeatTimeout < 0 {
		return config, errors.New("pgnotify: NewListener: MinBackoff, MaxBackoff and HeartbeatTimeout must not be negative")
	}
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&config.MinBackoff, defaultMinBackoff},
		{&config.MaxBackoff, max(defaultMaxBackoff, config.MinBackoff)},
		{&config.Heartbeat, defaultHeartbeat},
		{&config.HeartbeatTimeout, defaultHeartbeatTimeout},
	} {
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return config, nil
}

// A Listener receives notifications for any number of subscribers over one session of
// its own, for as long as the program likes. It reconnects by itself, and tells each
// subscriber, in its stream, where something may be missing.
//
// All methods are safe for concurrent use. A Listener has one goroutine, a second one
// for its session, and others while there are events, CatchUps, slow subscribers or a
// delivery probe; Close ends them. No subscriber can hold up the session, the other subscribers or the
// server: see [Subscription].
type Listener struct {
	connector driver.Connector
	config    ListenerConfig
	events    *dispatch.Queue[ListenerEvent] // for handle
	stop      context.CancelFunc             // ends run
	stopped   chan struct{}                  // closed when run has ended
	wake      chan struct{}                  // has a token when run has something to do

	droppedEvents uint64 // that handle has reported; for handle only
	deaf          bool   // notifications did not come to the last session that was probed; for run only

	mu        sync.Mutex          // guards the fields below, and the state of subscriptions
	link      *link               // the session; nil while there is none
	last      error               // why there is no session
	outage    *Gap                // since a session was lost; nil while a session listens
	topics    map[string]*topic   // by channel
	changed   map[*topic]struct{} // topics for reconcile to look at
	flight    *change             // the LISTEN and UNLISTEN under way
	subs      map[*Subscription]struct{}
	full      map[*Subscription]struct{} // subscriptions that are owed a gap; swept while there are any
	sweeping  bool
	slow      slowReport
	batchTime time.Time       // when the present batch arrived
	held      []*Subscription // subscriptions whose hold ends with the batch
	pings     []*ping
	pumps     int       // goroutines of subscriptions
	catching  int       // of these, in the program's code
	idle      sync.Cond // signalled when pumps, catching or sweeping changes
	closed    bool
	numbers   ListenerStats
}

// NewListener returns a Listener whose sessions come from connector, and connects in
// the background. It fails only if connector is nil or a duration other than Heartbeat
// is negative. A nil config means a zero ListenerConfig. The connector is a
// *[Connector] or wraps one; it is asked again for each session, so it may rotate
// credentials or hosts. Without a connect_timeout, an attempt may take 10 s for each
// host; if the connector is a wrapper, 30 s in all. The functions of [Config] run while
// a session is being opened. They must not wait for the Listener's Subscribe, Ping or
// Close, and any LISTEN that they make is undone.
//
// Close must be called when the Listener is no longer needed.
func NewListener(connector driver.Connector, config *ListenerConfig) (*Listener, error) {
	if c, ok := connector.(*Connector); connector == nil || ok && c == nil {
		return nil, errors.New("pgnotify: NewListener: the connector is nil")
	}
	c, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Listener{
		connector: connector,
		config:    c,
		stopped:   make(chan struct{}),
		wake:      make(chan struct{}, 1),
		topics:    make(map[string]*topic),
		changed:   make(map[*topic]struct{}),
		subs:      make(map[*Subscription]struct{}),
		full:      make(map[*Subscription]struct{}),
	}
	l.idle.L = &l.mu
	l.events = dispatch.New(maxListenerEvents, nil, l.handle)
	ctx, stop := context.WithCancel(background)
	l.stop = stop
	go l.run(ctx) // ends by stop; joined by Close
	return l, nil
}

// Close ends the session and all subscriptions: their channels are closed, and their
// Err is [ErrClosed]. It waits for the Listener's goroutines, but not for a CatchUp or
// an OnEvent that is running, so either may call it; a function of [Config] must not.
// Close takes milliseconds, whatever the Listener is doing, if the connector heeds its
// context, as [Connector] does. It may be called more than once, and returns nil.
func (l *Listener) Close() error {
	l.stop()
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pumps > l.catching || l.sweeping {
		l.idle.Wait()
	}
	return nil
}

// signal tells run that there is something to do.
func (l *Listener) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ListenerStats holds the counters of a [Listener] since it was made. The last four
// fields describe the present moment.
type ListenerStats struct {
	Received   uint64 // notifications received over the session
	Bytes      uint64 // of their channels and payloads
	Delivered  uint64 // notifications put into subscribers' queues
	Dropped    uint64 // notifications that a queue could not hold, including those that OverflowDropOldest removed
	Gaps       uint64 // gaps put into the queues
	Reconnects uint64 // sessions that listened, after the first

	HeartbeatRoundTrip time.Duration // of the last heartbeat or Ping; 0 before the first

	Channels      int // that have a subscriber
	Subscriptions int
	Queued        int // events in all queues
	LongestQueue  int // events in the longest queue
}

// Stats returns the Listener's counters. Its cost grows with the number of
// subscriptions and channels.
func (l *Listener) Stats() ListenerStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	stats := l.numbers
	stats.Subscriptions = len(l.subs)
	for _, t := range l.topics {
		if len(t.subs) > 0 {
			stats.Channels++
		}
	}
	for s := range l.subs {
		n := s.queue.len()
		stats.Queued += n
		stats.LongestQueue = max(stats.LongestQueue, n)
	}
	return stats
}

// deliver gives the subscribers what one read of a session brought. The session's
// reader calls it, and it never blocks.
func (l *Listener) deliver(k *link, items []wire.Notification) {
	now := time.Now()
	for len(items) > 0 {
		items = items[l.deliverSome(k, items, now):]
	}
}

// maxDeliveries is about how many deliveries are made, or dropped, before others get
// the lock, and while takers are held back.
const maxDeliveries = 1024

// Notifications of one channel that arrive together are delivered in runs, because
// after the first of them the queue is in the processor's cache. With many subscribers
// the runs are short, to bound how long the lock is held.
const (
	maxRun           = 32
	maxRunDeliveries = 32 << 10
)

// deliverSome delivers the first of the items, and returns how many.
func (l *Listener) deliverSome(k *link, items []wire.Notification, now time.Time) int {
	k.hear()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link != k {
		return len(items)
	}
	if k.trial != nil {
		k.trial.hear(items)
	}
	l.batchTime = now
	done, tried, delivered := 0, 0, 0
	for done < len(items) && tried < maxDeliveries {
		t := l.topics[items[done].Channel]
		if t == nil {
			done++
			continue
		}
		run := t.run(items[done:])
		if !l.hearsLocked(k, t) {
			done += len(run)
			continue
		}
		deliveries := len(run) * len(t.subs)
		if deliveries > maxDeliveries { // this takes long
			l.endHoldsLocked()
		}
		delivered += t.deliver(run)
		tried += deliveries
		done += len(run)
	}
	l.endHoldsLocked()
	l.countLocked(items[:done], delivered)
	return done
}

func (l *Listener) countLocked(received []wire.Notification, delivered int) {
	l.numbers.Received += uint64(len(received))
	l.numbers.Delivered += uint64(delivered)
	for i := range received {
		l.numbers.Bytes += uint64(len(received[i].Channel) + len(received[i].Payload))
	}
}
