package states_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify"
)

// listen has a Listener listen for a while, and finds what its subscribers miss.
func (w *world) listen(dice *rand.Rand) {
	config := w.config.Clone()
	config.OnNotice, config.OnNotification = nil, nil
	c, err := pgnotify.NewConnector(config)
	if err != nil {
		w.fail("NewConnector: %v", err)
		return
	}
	heartbeat := patience
	if w.mischief > 0 {
		heartbeat = shortTime
	}
	l, err := pgnotify.NewListener(c, &pgnotify.ListenerConfig{
		MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond, Logger: config.Logger,
		Heartbeat: []time.Duration{-1, 5 * time.Millisecond, 50 * time.Millisecond}[dice.IntN(3)], HeartbeatTimeout: heartbeat,
	})
	if err != nil {
		w.fail("NewListener: %v", err)
		return
	}
	var subscribers sync.WaitGroup
	for range 1 + dice.IntN(3) {
		dice := rand.New(rand.NewPCG(dice.Uint64(), 0))
		subscribers.Go(func() { w.subscribe(l, dice) }) // ends after a moment; joined below
	}
	subscribers.Wait()
	defer w.watch("Listener.Close", 0)()
	if err := l.Close(); err != nil {
		w.fail("Listener.Close: %v", err)
	}
}

func (w *world) subscribe(l *pgnotify.Listener, dice *rand.Rand) {
	defer w.watch("Subscribe", shortTime)()
	ctx, cancel := context.WithTimeout(context.Background(), shortTime)
	defer cancel()
	sub, err := l.Subscribe(ctx, channels[dice.IntN(len(channels)):]...)
	w.trace.add("subscribed: %v", err)
	if err != nil {
		if w.mischief == 0 && !errors.Is(err, context.DeadlineExceeded) {
			w.fail("Subscribe: %v", err)
		}
		return
	}
	time.AfterFunc(between(dice, 0, 100*time.Millisecond), sub.Close)
	heard := subscriber{w: w, last: make(map[string]numbers)}
	for e := range sub.Events() {
		heard.take(e)
	}
}

// A subscriber finds what is missing without a gap.
type subscriber struct {
	w    *world
	pid  uint32
	last map[string]numbers // of each channel
}

func (s *subscriber) take(e pgnotify.Event) {
	if e.Gap != nil {
		s.pid = 0
		clear(s.last)
		return
	}
	n, ok := parseNumbers(e.Payload)
	last, known := s.last[e.Channel]
	switch {
	case !ok:
		s.w.fail("a Listener heard %q", e.Payload)
	case s.pid != 0 && n.pid != s.pid:
		s.w.fail("a Listener heard session %d after %d, without a gap", n.pid, s.pid)
	case known && n.onChannel != last.onChannel+1:
		s.w.fail("a Listener heard %q over %s after %q, without a gap", e.Payload, e.Channel, last)
	}
	s.pid, s.last[e.Channel] = n.pid, n
}
