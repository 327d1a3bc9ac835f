package pgnotify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// The default of SubscriptionConfig.QueueSize, and its maximum, which takes 800 MB.
const (
	defaultQueueSize = 1024
	maxQueueSize     = 1 << 24
)

// An OverflowPolicy decides what happens to a subscription that does not keep up: when
// a notification arrives and its queue is full.
type OverflowPolicy int

const (
	// OverflowGap, the default, keeps the queue and drops new notifications until half
	// of it is free, or a burst is over and there is room. A [Gap] takes their place
	// and counts them.
	OverflowGap OverflowPolicy = iota
	// OverflowDropOldest drops the whole queue, not only the oldest event, so that the
	// subscriber goes on with the newest. A [Gap] comes first. Once Events has been
	// called, the policy costs a goroutine, one event that was next may still precede
	// the gap, and the queue is lost when the subscription ends.
	OverflowDropOldest
	// OverflowDisconnect ends the subscription with [ErrSlowConsumer]. What is in the
	// queue can still be taken, unless there is a CatchUp. Notifications that did not
	// fit are not counted.
	OverflowDisconnect
)

// String returns the policy in words.
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

// SubscriptionConfig says what a subscription receives and how.
type SubscriptionConfig struct {
	// Channels are the channels to listen to: at least one, named as for
	// [NotificationConn].Listen. Duplicates count once.
	Channels []string

	// QueueSize is the maximum number of events in the queue. Its last place is
	// reserved for a gap. An event takes 48 bytes. The queue grows on demand; once
	// Events has been called, it has its full size, unless a goroutine passes the
	// events on (CatchUp, OverflowDropOldest). 0: 1024; less than 2 or more than 1<<24
	// is an error.
	QueueSize int

	// CatchUp, if not nil, is called in place of each gap, and once at the start, to
	// read again what the missing notifications would have told. Notifications that
	// arrive meanwhile wait in the queue. If CatchUp fails or panics, it is called
	// again, after waits like those of reconnecting. If it ends its goroutine, as
	// [runtime.Goexit] does, the subscription ends. It runs on a goroutine of the
	// subscription. When the subscription ends, ctx ends, and the queue is lost. Close
	// does not wait for CatchUp.
	CatchUp func(ctx context.Context, gap Gap) error

	// Overflow decides what happens when the queue is full.
	Overflow OverflowPolicy
}

// A Subscription is one subscriber's stream of notifications, in the order in which
// their transactions committed, starting when [Listener.Subscribe] returns. A [Gap]
// marks each place where some may be missing.
//
// All, Wake and the Go channel of Events take from the same queue: each event goes to
// one of them. Nothing waits for the subscriber: when its queue is full, the Overflow
// policy decides. All methods are safe for concurrent use.
type Subscription struct {
	l      *Listener
	config SubscriptionConfig
	queue  queue
	ready  chan struct{} // closed when Subscribe may return
	opened sync.Once     // by Events

	// The Listener's lock guards the fields below.
	seats    []seat
	missing  int  // channels that the session does not listen to yet
	live     bool // it receives notifications
	ended    bool // it will receive no more, and err says why
	err      error
	broken   *Gap               // the gap to come when no channel is missing any more; nil while nothing was lost
	owed     *Gap               // the gap to be put into the queue before anything newer
	toldSlow time.Time          // when tellSlow last reported it
	stop     context.CancelFunc // ends the pump; nil while there is none
}

// Subscribe is [Listener.SubscribeConfig] with the defaults of [SubscriptionConfig].
func (l *Listener) Subscribe(ctx context.Context, channels ...string) (*Subscription, error) {
	return l.SubscribeConfig(ctx, SubscriptionConfig{Channels: channels})
}

// SubscribeConfig begins a subscription. It returns when the server has acknowledged
// that the present session listens to all of its channels: notifications sent from then
// on are received. While there is no session it waits for one. If ctx ends first, the
// subscription is discarded, and the error holds both ctx.Err() and the reason why
// there is no session. Other errors are [ErrChannelName], [ErrClosed], an invalid
// config, the server's error if it refuses a channel, and [ErrNotSupported] if
// notifications do not arrive over the session, as behind a pooler in transaction mode.
// ctx bounds only this call.
func (l *Listener) SubscribeConfig(ctx context.Context, config SubscriptionConfig) (*Subscription, error) {
	s, err := l.subscribe(ctx, config)
	if err != nil {
		return nil, &opError{strings.TrimSpace("subscribe " + quoteAll(config.Channels)), err}
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
		if err := s.Err(); err != nil && err != ErrSlowConsumer { // in which case it was live already
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

// add registers s and has the Listener listen to its channels.
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

// whyNot adds to the error of a wait the reason why there is no session.
func (l *Listener) whyNot(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, &noSessionError{l.last})
}

// hears is called when the session listens to all channels of s, and again when it is
// known whether it hears.
func (s *Subscription) hears() {
	if s.live {
		s.owe(s.broken)
		s.broken = nil
		return
	}
	if !s.l.link.settled { // settle goes on
		return
	}
	s.live = true
	if s.config.CatchUp != nil {
		s.owe(&Gap{Cause: GapSubscribed, From: time.Now()})
	}
	close(s.ready)
}

// putRun puts a run of notifications, which goes to that many hearers, into the queue,
// and returns how many it put.
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

// Err returns nil until the subscription ends, and then the reason, even while there
// are events left to take: [ErrClosed], [ErrSlowConsumer], or the server's error if it
// refused one of the channels on a later session.
func (s *Subscription) Err() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.err
}

// Close ends the subscription. Events in the queue can still be taken, unless a
// goroutine passes them on (CatchUp, [OverflowDropOldest] with Events). Close does not
// block, and may be called more than once.
func (s *Subscription) Close() { s.l.end(s, ErrClosed) }

// end ends a subscription with err, unless it has ended already.
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
