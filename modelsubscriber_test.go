package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A modelSubscriber takes what a subscription brings, until it ends, and writes it into
// a ledger. How it does so, and what it subscribes to, is chosen at random.
type modelSubscriber struct {
	*ledger
	sub      *pgnotify.Subscription
	config   pgnotify.SubscriptionConfig
	dice     *rand.Rand // of the taker
	way      takingWay
	slow     bool
	hurry    *atomic.Bool // nobody is slow any more
	resident bool         // stays until the Listener is closed
	latest   int64        // no number above this one can have come

	// From CatchUp to the taker, which notes the gap.
	gaps      chan pgnotify.Gap
	noted     chan struct{}
	interrupt atomic.Pointer[context.CancelFunc] // of the iteration that may be under way
}

// A takingWay is how a subscriber takes its events.
type takingWay int

const (
	byAll takingWay = iota
	byEvents
	byTurns // by All, and then by either
	takingWays
)

func (w takingWay) String() string { return [...]string{"All", "Events", "turns"}[w] }

func newModelSubscriber(seed uint64, hurry *atomic.Bool) *modelSubscriber {
	own := choices{seed: seed}
	dice, catching := own.dice(), own.dice()
	s := &modelSubscriber{
		dice: dice, way: takingWay(dice.IntN(int(takingWays))), slow: dice.IntN(2) == 0, hurry: hurry,
		gaps: make(chan pgnotify.Gap, 1), noted: make(chan struct{}, 1),
		config: pgnotify.SubscriptionConfig{
			QueueSize: []int{2, 3, 5, 16, 64, 1024}[dice.IntN(6)],
			Overflow:  pgnotify.OverflowPolicy(dice.IntN(2)),
		},
	}
	if dice.IntN(8) == 0 { // not often, because it ends the subscription
		s.config.Overflow = pgnotify.OverflowDisconnect
	}
	for _, i := range dice.Perm(len(modelChannels))[:1+dice.IntN(len(modelChannels))] {
		s.config.Channels = append(s.config.Channels, modelChannels[i])
	}
	if dice.IntN(3) == 0 {
		s.config.CatchUp = func(ctx context.Context, gap pgnotify.Gap) error { return s.catchUp(ctx, catching, gap) }
	}
	return s
}

// String describes the subscriber for who reads of a failure.
func (s *modelSubscriber) String() string {
	text := fmt.Sprintf("a queue of %d for %v (%v), taken by %v", s.config.QueueSize, s.config.Channels, s.config.Overflow, s.way)
	for _, feature := range []struct {
		has  bool
		name string
	}{{s.config.CatchUp != nil, "CatchUp"}, {s.slow, "slow"}, {s.resident, "resident"}} {
		if feature.has {
			text += ", " + feature.name
		}
	}
	return text
}

// take notes what comes until the subscription has ended.
func (s *modelSubscriber) take() {
	for goesOn := true; goesOn; {
		select {
		case gap := <-s.gaps:
			s.noteGap(gap)
		default:
		}
		turn := 1 + s.dice.IntN(50)
		if s.way == byEvents || s.way == byTurns && s.dice.IntN(4) == 0 {
			goesOn = s.receive(turn)
		} else {
			goesOn = s.iterate(turn)
		}
	}
}

// receive takes some events from the Go channel. It reports false at the end.
func (s *modelSubscriber) receive(most int) bool {
	for range most {
		select {
		case e, ok := <-s.sub.Events():
			if !ok {
				return false
			}
			s.took(e)
		case gap := <-s.gaps:
			s.noteGap(gap)
		}
	}
	return true
}

// iterate takes some events from an iteration, which it leaves by break, or which a
// context ends. It reports false at the end of the subscription.
func (s *modelSubscriber) iterate(most int) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if s.dice.IntN(10) == 0 {
		defer time.AfterFunc(between(s.dice, 0, 3*time.Millisecond), cancel).Stop()
	}
	s.interrupt.Store(&cancel)
	if len(s.gaps) > 0 {
		return true
	}
	for e := range iterated(ctx, s.sub) {
		s.took(e)
		if most--; most == 0 {
			break
		}
	}
	return most == 0 || ctx.Err() != nil
}

// took notes an event, and is slow if the subscriber is.
func (s *modelSubscriber) took(e pgnotify.Event) {
	s.note(e)
	if s.slow && !s.hurry.Load() && s.dice.IntN(20) == 0 {
		time.Sleep(between(s.dice, 0, 4*time.Millisecond))
	}
}

var errOnPurpose = errors.New("on purpose")

// catchUp has the taker note the gap. Only the taker can do so in its place, behind the
// notification that it has taken, but perhaps not noted, before CatchUp was called.
func (s *modelSubscriber) catchUp(ctx context.Context, dice *rand.Rand, gap pgnotify.Gap) error {
	if dice.IntN(3) == 0 {
		return errOnPurpose
	}
	time.Sleep(between(dice, 0, 500*time.Microsecond))
	s.gaps <- gap
	if cancel := s.interrupt.Load(); cancel != nil {
		(*cancel)()
	}
	select {
	case <-s.noted:
		return nil
	case <-ctx.Done():
		return s.withdraw(ctx.Err())
	}
}

// withdraw takes back the gap that nobody has noted, because of err. The taker may have
// been faster.
func (s *modelSubscriber) withdraw(err error) error {
	select {
	case <-s.gaps:
		return err
	case <-s.noted:
		return nil
	}
}

// noteGap notes the gap of a CatchUp, which waits for it.
func (s *modelSubscriber) noteGap(gap pgnotify.Gap) {
	s.note(pgnotify.Event{Gap: &gap})
	s.noted <- struct{}{}
}
