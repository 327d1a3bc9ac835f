package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgnotify/pgnotify"
)

// listenQueue is how many notifications may wait to be printed. A larger burst causes a
// gap.
const listenQueue = 1 << 16

// A listening is one run of pgnotify listen.
type listening struct {
	sessionFlags
	limit
	json, raw bool
	channels  []string
}

func runListen(ctx context.Context, args []string, s streams) error {
	l, err := newListening(args)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer watchReader(s.out, fail)()
	ctx, cancel := until(ctx, l.timeout)
	defer cancel()
	out := newOutput(s, fail)
	out.json, out.raw = l.json, l.raw
	session, err := openSession(l.sessionFlags, out, fail)
	if err != nil {
		return err
	}
	return session.close(l.run(ctx, session))
}

func newListening(args []string) (*listening, error) {
	l := &listening{}
	f := newFlags("listen", &l.dsn)
	f.BoolVar(&l.json, "json", false, "")
	f.BoolVar(&l.raw, "raw", false, "")
	f.BoolVar(&l.wait, "wait", false, "")
	f.BoolVar(&l.probe, "probe", false, "")
	l.limit.define(f)
	channels, err := parse(f, args)
	if err != nil {
		return nil, err
	}
	l.channels = channels
	switch {
	case len(channels) == 0:
		return nil, usageError("a channel is missing")
	case l.json && l.raw:
		return nil, usageError("-json and -raw exclude each other")
	}
	return l, errors.Join(l.check(), checkChannels(channels))
}

// run listens until ctx ends, or until the wanted number of notifications has come.
func (l *listening) run(ctx context.Context, s *session) error {
	sub, err := s.SubscribeConfig(ctx, pgnotify.SubscriptionConfig{Channels: l.channels, QueueSize: listenQueue})
	switch err = why(ctx, err); {
	case errors.Is(err, errTimeout):
		return fmt.Errorf("listen: no session within %v", l.timeout)
	case errors.Is(err, pgnotify.ErrChannelName):
		return usageError(withoutPackage(err))
	case err != nil:
		return err
	}
	s.ready(ctx)
	now := time.Now()
	s.out.event(now, listeningRecord{newHead("listening", now), l.channels}, "listening to "+quoted(l.channels))
	heard, err := l.print(ctx, s, sub)
	if err = why(ctx, err); !errors.Is(err, errTimeout) {
		return err
	}
	if l.count > 0 {
		return fmt.Errorf("listen: %d of %d notifications came within %v", heard, l.count, l.timeout)
	}
	return nil
}

// print prints what arrives, and returns the number of notifications.
func (l *listening) print(ctx context.Context, s *session, sub *pgnotify.Subscription) (heard uint, err error) {
	out := s.out
	defer out.flush()
	var gap *pgnotify.GapError
	for n, err := range sub.All(ctx) {
		switch {
		case errors.As(err, &gap):
			out.gap(gap.Gap)
			continue
		case err != nil:
			return heard, err
		}
		out.notification(n)
		if heard++; heard == l.count {
			return heard, nil
		}
		if s.Stats().Queued == 0 { // nothing to wait for
			out.flush()
		}
	}
	return heard, nil
}
