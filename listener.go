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

// ListenerConfig says how a [Listener] reconnects and makes sure that it hears.
// A zero field means the default that its comment states.
type ListenerConfig struct {
	// MinBackoff and MaxBackoff bound the wait before an attempt to reconnect. The
	// first attempt after a loss is made at once. Before the n-th after that the
	// wait is a random time below MinBackoff·2ⁿ⁻¹, and below MaxBackoff. 0: 50 ms
	// and 30 s.
	MinBackoff, MaxBackoff time.Duration

	// Heartbeat is how often the session is asked whether it still lives and
	// listens. 0: 15 s; negative: never, so that a network which falls silent is
	// left to TCP.
	Heartbeat time.Duration

	// HeartbeatTimeout is how long the session may take to answer that, or a LISTEN,
	// which has 2 ms more for each channel. Then it is given up. 0: 5 s.
	HeartbeatTimeout time.Duration

	// DeliveryProbe makes sure, with each new session, that notifications arrive: it
	// sends one from a second session, which it opens for that. Where none arrives
	// within HeartbeatTimeout, as behind a pooler in transaction mode, the session is
	// given up with [ErrNotSupported].
	DeliveryProbe bool

	// OnEvent is called with what happens to the Listener: one event after the
	// other, in order, on a goroutine that holds no lock and that nothing else waits
	// for. It may use the Listener, and close it. While it blocks, up to 256 events
	// wait; what comes then is dropped, but for [ListenerClosed], the last one.
	OnEvent func(ListenerEvent)

	// Logger gets what OnEvent gets, for people to read. nil: [slog.Default].
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

// A Listener hears notifications for any number of subscribers over one session
// of its own, for as long as the program likes: it reconnects by itself, and
// tells each subscriber, in its stream, where something may be missing.
//
// All methods are safe for concurrent use. A Listener has one goroutine, and a
// second one for the session; Close ends both. Nobody who uses it can hold up its
// session, its other subscribers, or the server: see [Subscription].
type Listener struct {
	connector driver.Connector
	config    ListenerConfig
	events    *dispatch.Queue[ListenerEvent] // for handle
	stop      context.CancelFunc             // ends run
	stopped   chan struct{}                  // closed when run has ended
	wake      chan struct{}                  // has a token when run has something to do

	droppedEvents uint64 // that handle has told of; for handle only

	mu        sync.Mutex          // guards the fields below, and the state of subscriptions
	link      *link               // the session; nil while there is none
	last      error               // why there is none
	outage    *Gap                // since a session was lost; nil while one listens
	topics    map[string]*topic   // by channel
	changed   map[*topic]struct{} // those for reconcile to look at
	flight    *change             // the LISTEN and UNLISTEN under way
	subs      map[*Subscription]struct{}
	full      map[*Subscription]struct{} // those with a gap to come; swept while there are any
	sweeping  bool
	batchTime time.Time       // when the present batch came
	held      []*Subscription // those with a hold to be ended at the end of the batch
	pings     []*ping
	pumps     int       // goroutines of subscriptions
	catching  int       // those of them that are in it
	idle      sync.Cond // pumps, catching or sweeping have become less
	closed    bool
	numbers   ListenerStats
}

// NewListener returns a Listener whose sessions come from connector, and starts
// to connect in the background; it does not wait for that. nil means a zero
// ListenerConfig. The connector is a *[Connector], or one that wraps it; it is
// asked again for each session, so it may rotate credentials or hosts. Where it has
// no connect_timeout, an attempt may take 10 s for each host; where it wraps another,
// 30 s in all. The functions of [Config] are called on the way to a session, and must not
// wait for the Listener's Subscribe, Ping or Close; what they LISTEN to is not heard.
//
// Close must be called when the Listener is no longer needed.
func NewListener(connector driver.Connector, config *ListenerConfig) (*Listener, error) {
	if connector == nil {
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

// Close ends the session and all subscriptions, whose channels are closed and
// whose Err is then [ErrClosed]. It waits for the goroutines of the Listener, but not
// for a CatchUp or an OnEvent that is being run, which may be what calls it; it must
// not be called from a function of [Config]. It takes milliseconds, whatever the
// Listener is doing, if the connector heeds its context, as [Connector] does. It may be
// called more than once, and returns nil.
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

// signal has run look for something to do.
func (l *Listener) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ListenerStats are the numbers of a [Listener] since it was made, but for the
// last four, which are those of the moment.
type ListenerStats struct {
	Received   uint64 // notifications that came over the session
	Bytes      uint64 // of their channels and payloads
	Delivered  uint64 // notifications put into the queues of subscribers
	Dropped    uint64 // those that a queue could not hold, also where OverflowDropOldest took them out again
	Gaps       uint64 // gaps put into the queues
	Reconnects uint64 // sessions that listened, after the first

	HeartbeatRoundTrip time.Duration // of the last heartbeat or Ping; 0 before the first

	Channels      int // that the Listener wants to hear
	Subscriptions int
	Queued        int // events in all queues
	LongestQueue  int // events in the longest
}

// Stats returns the Listener's numbers. It takes the time to look at each
// subscription.
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

// deliver gives what one read of a session brought to the subscribers. It is
// called by the session's reader, for which it never waits.
func (l *Listener) deliver(k *link, items []wire.Notification) {
	now := time.Now()
	for len(items) > 0 {
		items = items[l.deliverSome(k, items, now):]
	}
}

// maxDeliveries is about how many deliveries are made, or dropped, before others get the
// lock, and while takers are held.
const maxDeliveries = 1024

// Notifications of one channel that come together are delivered in runs: what a queue
// needs is in the processor's cache after the first of them. Runs are short where
// there are many subscribers, because of the lock.
const (
	maxRun           = 32
	maxRunDeliveries = 32 << 10
)

// deliverSome delivers the first items and returns how many.
func (l *Listener) deliverSome(k *link, items []wire.Notification, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link != k {
		k.probedLocked(items)
		return len(items)
	}
	k.heard, l.batchTime = now, now
	done, tried, delivered := 0, 0, 0
	for done < len(items) && tried < maxDeliveries {
		t := l.topics[items[done].Channel]
		if t == nil {
			done++
			continue
		}
		l.heardLocked(t)
		run := t.run(items[done:])
		deliveries := len(run) * len(t.subs)
		if deliveries > maxDeliveries { // that takes long
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
