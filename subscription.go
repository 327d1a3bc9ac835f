package pgnotify

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// The default of SubscriptionConfig.QueueSize, and the largest, which takes 800 MB.
const (
	defaultQueueSize = 1024
	maxQueueSize     = 1 << 24
)

// An OverflowPolicy says what becomes of a subscription that does not keep up:
// a notification comes, and its queue is full.
type OverflowPolicy int

const (
	// OverflowGap, the default, keeps what is in the queue and drops what comes, until
	// half of the queue is free. A [Gap] stands in the queue where they are missing, with
	// their number.
	OverflowGap OverflowPolicy = iota
	// OverflowDropOldest drops all that is in the queue, not only the oldest, so that the
	// subscriber goes on with what is newest. A [Gap] stands before that. Once Events was
	// called, it costs a goroutine, one event that was the next may still come before the
	// gap, and what is in the queue is lost when the subscription ends.
	OverflowDropOldest
	// OverflowDisconnect ends the subscription: Err is [ErrSlowConsumer]. What is in the
	// queue can still be taken, unless there is a CatchUp; what was too much is not counted.
	OverflowDisconnect
)

// String returns the policy's name.
func (p OverflowPolicy) String() string {
	switch p {
	case OverflowGap:
		return "gap"
	case OverflowDropOldest:
		return "drop oldest"
	case OverflowDisconnect:
		return "disconnect"
	}
	return fmt.Sprintf("OverflowPolicy(%d)", int(p))
}

// SubscriptionConfig says what a subscription hears and how.
type SubscriptionConfig struct {
	// Channels are the channels to hear: at least one, named as for
	// [NotificationConn].Listen. One that is named twice is heard once.
	Channels []string

	// QueueSize is how many events wait for the subscriber, at the most. The last place
	// is kept for a gap. An event takes 48 bytes. The queue grows as it is needed, and
	// once Events was called has room for all from the beginning, unless a goroutine
	// passes them on (CatchUp, OverflowDropOldest). 0: 1024; less than 2 is an error, and
	// more than 1<<24.
	QueueSize int

	// CatchUp, where it is not nil, takes the place of gaps: it is called with each
	// one, and once at the start, to look again at what notifications would have told.
	// The notifications that come meanwhile wait in the queue. While it fails, it
	// is called again, after waits like those of reconnecting; a panic counts as
	// failing; one that ends its goroutine, as [runtime.Goexit] does, ends the
	// subscription. It runs on a goroutine that the subscription has for that, which is not
	// waited for by Close; ctx ends when the subscription does, and what is in the
	// queue is lost then.
	CatchUp func(ctx context.Context, gap Gap) error

	// Overflow says what happens when the queue is full.
	Overflow OverflowPolicy
}

// A Subscription is one subscriber's stream of notifications, in the order in
// which their transactions committed, from the time when [Listener.Subscribe] has
// returned. Where some may be missing, a [Gap] stands in their place.
//
// It has a queue, from which All, Wake and the Go channel of Events take: each event is
// given to one of those who do. Nobody waits for the subscriber: when the queue is full,
// its Overflow policy says what happens. Methods are safe for concurrent use.
type Subscription struct {
	l      *Listener
	config SubscriptionConfig
	queue  queue
	ready  chan struct{} // closed when Subscribe may return
	opened sync.Once     // by Events

	// The Listener's lock guards the fields below.
	seats    []seat
	missing  int  // channels that the session does not listen to yet
	live     bool // it gets notifications
	ended    bool // it will get none any more, and err says why
	err      error
	broken   *Gap               // to come when nothing is missing any more; nil while nothing was lost
	owed     *Gap               // to be put into the queue before anything newer
	toldSlow time.Time          // when tellSlow last told of it
	stop     context.CancelFunc // ends the pump; nil while there is none
}

// Subscribe hears channels, with the defaults of [SubscriptionConfig].
func (l *Listener) Subscribe(ctx context.Context, channels ...string) (*Subscription, error) {
	return l.SubscribeConfig(ctx, SubscriptionConfig{Channels: channels})
}

// SubscribeConfig begins a subscription, and returns when the server has
// acknowledged that the present session listens to all of its channels: what is
// sent from then on is heard. While there is no session it waits for one. When ctx
// ends first, the subscription is forgotten, and the error tells both ctx.Err() and
// why there is no session. Other errors are [ErrChannelName], [ErrClosed] and the
// server's, where it refuses a channel. ctx bounds nothing but this call.
func (l *Listener) SubscribeConfig(ctx context.Context, config SubscriptionConfig) (*Subscription, error) {
	s, err := l.subscribe(ctx, config)
	if err != nil {
		return nil, &opError{"subscribe " + quoteAll(config.Channels), err}
	}
	return s, nil
}

func (l *Listener) subscribe(ctx context.Context, config SubscriptionConfig) (*Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := l.newSubscription(config)
	if err != nil {
		return nil, err
	}
	if err := l.add(s); err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
		if err := s.Err(); err != nil && err != ErrSlowConsumer { // which is who has heard already
			return nil, err
		}
		return s, nil
	case <-ctx.Done():
		l.end(s, ErrClosed)
		return nil, l.whyNot(ctx.Err())
	}
}

func (l *Listener) newSubscription(config SubscriptionConfig) (*Subscription, error) {
	if len(config.Channels) == 0 {
		return nil, fmt.Errorf("%w: none is named", ErrChannelName)
	}
	for _, name := range config.Channels {
		if err := checkChannel(name); err != nil {
			return nil, err
		}
	}
	size := config.QueueSize
	if size == 0 {
		size = defaultQueueSize
	}
	if size < 2 || size > maxQueueSize {
		return nil, fmt.Errorf("pgnotify: QueueSize %d: it may be from 2 to %d", size, maxQueueSize)
	}
	if config.Overflow < OverflowGap || config.Overflow > OverflowDisconnect {
		return nil, fmt.Errorf("pgnotify: unknown %v", config.Overflow)
	}
	config.Channels = slices.Compact(slices.Sorted(slices.Values(config.Channels)))
	s := &Subscription{l: l, config: config, queue: newQueue(size), ready: make(chan struct{})}
	return s, nil
}

// add has the Listener hear the channels of s.
func (l *Listener) add(s *Subscription) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.subs[s] = struct{}{}
	s.seats = make([]seat, 0, len(s.config.Channels))
	for _, name := range s.config.Channels {
		t := l.topics[name]
		if t == nil {
			t = &topic{name: name}
			l.topics[name] = t
		}
		t.join(s)
		if !t.heard {
			s.missing++
			l.changed[t] = struct{}{}
		}
	}
	if s.config.CatchUp != nil {
		s.startPumpLocked()
	}
	if s.missing == 0 {
		s.hears()
		return nil
	}
	l.signal()
	return nil
}

// whyNot adds to an error of waiting why there was nothing to be had.
func (l *Listener) whyNot(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return err
	}
	return fmt.Errorf("%w: the listener has no session: %w", err, l.last)
}

// hears is called when the session listens to all channels of s.
func (s *Subscription) hears() {
	if s.live {
		s.owe(s.broken)
		s.broken = nil
		return
	}
	s.live = true
	if s.config.CatchUp != nil {
		s.owe(&Gap{Cause: GapSubscribed, From: time.Now()})
	}
	close(s.ready)
}

// putRun puts notifications into the queue, of which there are so many hearers, and
// returns how many it did.
func (s *Subscription) putRun(run []wire.Notification, hearers int) (put int) {
	if !s.live {
		return 0
	}
	if s.owed != nil && s.mayPay() {
		s.pay()
	}
	for {
		if s.owed == nil {
			n, holds := s.queue.put(run, hearers, s.l.batchTime)
			if holds {
				s.l.held = append(s.l.held, s)
			}
			put += n
			run = run[n:]
		}
		switch {
		case len(run) == 0:
			return put
		case s.config.Overflow == OverflowDropOldest:
			s.dropAll()
			s.queue.putOne(Event{Notification: Notification(run[0])})
			put++
			run = run[1:]
		default:
			s.overflow(len(run))
			return put
		}
	}
}

// Err returns nil while the subscription goes on, and then, though there may be
// something left to take, why it has ended:
// [ErrClosed], [ErrSlowConsumer], or the server's error, where it does not let a
// later session listen to one of the channels.
func (s *Subscription) Err() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.err
}

// Close ends the subscription. What is in the queue can still be taken, unless a goroutine
// passes it on (CatchUp, [OverflowDropOldest] with Events). It does not wait, and may be
// called more than once.
func (s *Subscription) Close() { s.l.end(s, ErrClosed) }

// end ends a subscription because of err, unless it has ended.
func (l *Listener) end(s *Subscription, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(s, err)
}

func (l *Listener) endLocked(s *Subscription, err error) {
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	if !s.live {
		close(s.ready)
	}
	s.live = false
	for _, seat := range s.seats {
		seat.topic.leave(seat.at)
		if len(seat.topic.subs) == 0 {
			l.unwantedLocked(seat.topic)
		}
	}
	s.seats = nil
	delete(l.subs, s)
	delete(l.full, s)
	if s.owed != nil {
		s.pay()
	}
	s.queue.close()
	if s.stop != nil {
		s.stop()
	}
	if len(l.changed) > 0 {
		l.signal()
	}
}
