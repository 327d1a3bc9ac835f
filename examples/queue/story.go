package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A story is what happens to the workers.
type story struct {
	db     *sql.DB
	jobs   jobs
	radio  *radio
	events chan pgnotify.ListenerEvent
	begun  *tally
	team   *team
}

func (s *story) tell(ctx context.Context) (err error) {
	s.team = newTeam(ctx, s.db, s.radio.Listener, s.begun)
	defer func() { err = errors.Join(err, s.team.Close()) }() // whichever team it has by then
	if err := s.awaitEvent(ctx, pgnotify.ListenerConnected); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{s.one, s.burst, s.unheard, s.stop, s.settle} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// one inserts a job while all workers wait.
func (s *story) one(ctx context.Context) error {
	start := time.Now()
	if err := s.jobs.insert(ctx, 1); err != nil {
		return err
	}
	if err := s.awaitDone(ctx, 1); err != nil {
		return err
	}
	printLine("1 job is inserted: done after %.1f ms, of which the work takes 5", milliseconds(time.Since(start)))
	return nil
}

// burst inserts jobs much faster than they are done.
func (s *story) burst(ctx context.Context) error {
	const n = 300
	before, sent := s.team.wakes.Load(), s.radio.Stats().Received
	if err := s.jobs.insert(ctx, n); err != nil {
		return err
	}
	if err := s.awaitDone(ctx, n); err != nil {
		return err
	}
	printLine("%d jobs are inserted one by one, and done", n)
	printLine("    %d notifications came for each of %d workers, who woke %d times, all together",
		s.radio.Stats().Received-sent, workers, s.team.wakes.Load()-before)
	return nil
}

// unheard inserts a job while the Listener has no session.
func (s *story) unheard(ctx context.Context) error {
	printLine("pg_terminate_backend, of the listener's session")
	s.radio.leave()
	err := s.radio.cut(ctx, s.db)
	if err == nil {
		err = s.awaitEvent(ctx, pgnotify.ListenerDisconnected)
	}
	if err == nil {
		err = s.jobs.insert(ctx, 1)
	}
	if err == nil {
		err = s.printWaiting(ctx, "1 job is inserted, and nobody hears it")
	}
	s.radio.comeIn()
	if err == nil {
		err = s.awaitEvent(ctx, pgnotify.ListenerConnected)
	}
	if err != nil {
		return err
	}
	start := time.Now()
	if err := s.awaitDone(ctx, 1); err != nil {
		return err
	}
	printLine("    the job is done after %.1f ms more: the gap woke the workers", milliseconds(time.Since(start)))
	return nil
}

// stop makes the workers stop in the middle of their work, and others take over.
func (s *story) stop(ctx context.Context) error {
	const n = 100
	if err := s.jobs.insert(ctx, n); err != nil {
		return err
	}
	if err := s.awaitDone(ctx, n/3); err != nil {
		return err
	}
	start := time.Now()
	if err := s.team.Close(); err != nil {
		return err
	}
	printLine("%d jobs are inserted, and the workers are told to stop: they do after %.1f ms", n, milliseconds(time.Since(start)))
	done := n/3 + len(s.team.done)
	if err := s.printWaiting(ctx, fmt.Sprintf("%d jobs are done", done)); err != nil {
		return err
	}
	s.team = newTeam(ctx, s.db, s.radio.Listener, s.begun)
	if err := s.awaitDone(ctx, n-done); err != nil {
		return err
	}
	printLine("    %d other workers have done them: they look before they wait", workers)
	return nil
}

// settle stops the workers, and proves that each job was done once.
func (s *story) settle(ctx context.Context) error {
	if err := s.team.Close(); err != nil {
		return err
	}
	l, err := s.jobs.ledger(ctx)
	if err != nil {
		return err
	}
	printLine("%d jobs, %d done, %d effects; begun more than once: %d, done more than once: %d",
		l.jobs, l.done, l.effects, s.begun.twice(), l.twice)
	if l.done != l.jobs || l.effects != l.jobs || l.twice > 0 || s.begun.twice() > 0 {
		return errors.New("that is not each job once")
	}
	return nil
}

func (s *story) printWaiting(ctx context.Context, text string) error {
	n, err := s.jobs.waiting(ctx)
	if err == nil {
		printLine("    %s: %d to do", text, n)
	}
	return err
}

// awaitDone waits until the workers have done n jobs more.
func (s *story) awaitDone(ctx context.Context, n int) error {
	for i := range n {
		select {
		case <-s.team.done:
		case <-s.team.ctx.Done():
			return fmt.Errorf("%d of %d jobs were done: %w", i, n, context.Cause(s.team.ctx))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// awaitEvent prints the Listener's events until one of the given kind comes.
func (s *story) awaitEvent(ctx context.Context, kind pgnotify.ListenerEventKind) error {
	for {
		select {
		case e := <-s.events:
			if e.Kind == kind {
				printEvent(e)
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the listener is not %v: %w", kind, ctx.Err())
		}
	}
}

func printEvent(e pgnotify.ListenerEvent) {
	switch e.Kind {
	case pgnotify.ListenerConnected:
		printLine("    the listener has a session")
	case pgnotify.ListenerDisconnected:
		printLine("    the listener has lost its session: %v", e.Err)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
