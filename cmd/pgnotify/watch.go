package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A watching is one run of pgnotify watch.
type watching struct {
	sessionFlags
	limit
	json     bool
	interval time.Duration
}

func runWatch(ctx context.Context, args []string, s streams) error {
	w, err := newWatching(args)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer watchReader(s.out, fail)()
	ctx, cancel := until(ctx, w.timeout)
	defer cancel()
	out := newOutput(s, fail)
	out.json, out.brief = w.json, true
	session, err := openSession(w.sessionFlags, out, fail)
	if err != nil {
		return err
	}
	return session.close(w.run(ctx, session))
}

func newWatching(args []string) (*watching, error) {
	w := &watching{}
	f := newFlags("watch", &w.dsn)
	f.BoolVar(&w.json, "json", false, "")
	f.BoolVar(&w.wait, "wait", false, "")
	f.DurationVar(&w.interval, "interval", time.Second, "")
	w.limit.define(f)
	rest, err := parse(f, args)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, usageError("watch takes no arguments beside flags: put -d before a DSN")
	case w.interval <= 0:
		return nil, usageError("-interval must be positive")
	}
	return w, w.check()
}

// run asks until ctx ends, or for the wanted number of times. Its error is then that of
// the last answer.
func (w *watching) run(ctx context.Context, s *session) error {
	clock := time.NewTicker(w.interval)
	defer clock.Stop()
	last := fmt.Errorf("watch: no answer within %v", w.timeout)
	for n := uint(1); ; n++ {
		if err := w.look(ctx, s); ctx.Err() == nil {
			last = err
		}
		if n == w.count && ctx.Err() == nil {
			return last
		}
		select {
		case <-clock.C:
			continue
		case <-ctx.Done():
		}
		if err := context.Cause(ctx); !errors.Is(err, errTimeout) {
			return err
		}
		return last
	}
}

// look asks once, and prints the answer.
func (w *watching) look(ctx context.Context, s *session) error {
	patience := max(w.interval, minPatience)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	health, err := s.Ping(within)
	now := time.Now()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		err = unhealthy(err, patience)
		if !s.begun.Load() && !errors.Is(err, errNoAnswer) {
			return err // soon the session fails with it
		}
		s.out.status(now, unhealthyRecord{newHead("unhealthy", now), err.Error()}, "UNHEALTHY: "+err.Error())
		return err
	}
	s.ready(ctx)
	reconnects := s.Stats().Reconnects
	s.out.status(now, newHealthRecord(health, reconnects, now), healthText(health, reconnects, now))
	return nil
}

// minPatience is the least time that an answer is given.
const minPatience = 2 * time.Second

var errNoAnswer = errors.New("no answer")

// unhealthy returns the error of a Ping in fewer words.
func unhealthy(err error, patience time.Duration) error {
	_, reason, ok := strings.Cut(err.Error(), "the listener has no session: ")
	switch {
	case ok:
		return errors.New("no session: " + strings.TrimPrefix(reason, "pgnotify: "))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w within %v", errNoAnswer, patience)
	}
	return errors.New(withoutPackage(err))
}

func newHealthRecord(h pgnotify.Health, reconnects uint64, now time.Time) healthRecord {
	return healthRecord{
		newHead("health", now), h.Host, h.PID, h.ConnectedSince.UTC(), h.LastHeard.UTC(),
		milliseconds(h.RoundTrip), h.InRecovery, h.QueueUsage, reconnects,
	}
}

func healthText(h pgnotify.Health, reconnects uint64, now time.Time) string {
	role := "primary"
	if h.InRecovery {
		role = "standby"
	}
	text := fmt.Sprintf("%s %s, up %s, round trip %.2f ms, heard %s ago, queue %.1f%%",
		sessionText(h.Host, h.PID), role, short(now.Sub(h.ConnectedSince)),
		milliseconds(h.RoundTrip), short(now.Sub(h.LastHeard)), 100*h.QueueUsage)
	if reconnects > 0 {
		text += fmt.Sprintf(", reconnects %d", reconnects)
	}
	return text
}

func sessionText(host string, pid uint32) string { return fmt.Sprintf("%s pid %d", host, pid) }
