package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	w := &watching{interval: time.Second}
	f := newFlags("watch", &w.dsn)
	f.BoolVar(&w.json, "json", false, "")
	f.BoolVar(&w.wait, "wait", false, "")
	durationVar(f, &w.interval, "interval")
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
	s.out.status(now, newHealthRecord(health, reconnects, now), healthText(health, reconnects, now), healthParts(health, reconnects, now)...)
	return nil
}

// minPatience is the least time that an answer is given.
const minPatience = 2 * time.Second

var errNoAnswer = errors.New("no answer")

// unhealthy returns the error of a Ping in fewer words.
func unhealthy(err error, patience time.Duration) error {
	_, reason, ok := strings.Cut(errorText(err), "the listener has no session: ")
	switch {
	case ok:
		return errors.New("no session: " + reason)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w within %v", errNoAnswer, patience)
	}
	return errors.New(errorText(err))
}

func newHealthRecord(h pgnotify.Health, reconnects uint64, now time.Time) healthRecord {
	return healthRecord{
		newHead("health", now), h.Host, h.PID, h.ConnectedSince.UTC(), h.LastHeard.UTC(),
		milliseconds(h.RoundTrip), h.InRecovery, h.QueueUsage, reconnects,
	}
}

// healthText is the answer, for people.
func healthText(h pgnotify.Health, reconnects uint64, now time.Time) string {
	text := fmt.Sprintf("%s %s, up %s, round trip %.2f ms, heard %s ago, queue %.1f%%",
		sessionText(h.Host, h.PID), role(h), short(now.Sub(h.ConnectedSince)),
		milliseconds(h.RoundTrip), short(now.Sub(h.LastHeard)), 100*h.QueueUsage)
	if reconnects > 0 {
		text += fmt.Sprintf(", reconnects %d", reconnects)
	}
	return text
}

// healthParts is the answer in short, the most important first. The rest of healthText
// was told when the session began, or is the same for each answer.
func healthParts(h pgnotify.Health, reconnects uint64, now time.Time) []string {
	parts := []string{
		role(h),
		fmt.Sprintf("%.2f ms", milliseconds(h.RoundTrip)),
		fmt.Sprintf("queue %.1f%%", 100*h.QueueUsage),
		"up " + short(now.Sub(h.ConnectedSince)),
		h.Host,
	}
	if reconnects > 0 {
		parts = slices.Insert(parts, 3, fmt.Sprintf("reconnects %d", reconnects))
	}
	return parts
}

func role(h pgnotify.Health) string {
	if h.InRecovery {
		return "standby"
	}
	return "primary"
}

func sessionText(host string, pid uint32) string { return fmt.Sprintf("%s pid %d", host, pid) }
