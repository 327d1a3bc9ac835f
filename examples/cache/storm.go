package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// storm lets four readers and a writer work while the Listener loses its session again
// and again, and then checks whether the cache is right.
func (s *story) storm(ctx context.Context) error {
	printLine("four readers and a writer, while %d sessions are terminated:", cuts)
	var gets, hits, changes atomic.Int64
	during, stop := context.WithCancel(ctx)
	defer stop()
	var people sync.WaitGroup
	errs := make(chan error, 5)
	for range 4 {
		people.Go(func() {
			errs <- every(during, 100*time.Microsecond, func() error {
				_, hit, err := s.cache.get(ctx, randomKey())
				gets.Add(1)
				if hit {
					hits.Add(1)
				}
				return err
			})
		})
	}
	people.Go(func() {
		errs <- every(during, 0, func() error {
			return s.table.set(ctx, randomKey(), strconv.FormatInt(changes.Add(1), 10))
		})
	})
	err := s.lightning(ctx)
	stop()
	people.Wait()
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	printLine("    %d gets, %.1f%% of them hits; %d changes",
		gets.Load(), 100*float64(hits.Load())/float64(gets.Load()), changes.Load())
	return s.compare(ctx)
}

const cuts = 3

// lightning terminates the Listener's sessions, and leaves it the last one for a while.
func (s *story) lightning(ctx context.Context) error {
	for range cuts {
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		if err := s.radio.cut(ctx, s.table); err != nil {
			return err
		}
	}
	if _, err := s.radio.settle(ctx); err != nil {
		return err
	}
	return pause(ctx, 300*time.Millisecond)
}

// every calls f until ctx ends, with pauses.
func every(ctx context.Context, d time.Duration, f func() error) error {
	for ctx.Err() == nil {
		if err := f(); err != nil {
			return err
		}
		_ = pause(ctx, d)
	}
	return nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func randomKey() string { return "key " + strconv.Itoa(1+rand.IntN(100)) }

// compare compares the cache with the table.
func (s *story) compare(ctx context.Context) error {
	if err := s.drain(ctx); err != nil {
		return err
	}
	have := s.cache.contents()
	want, err := s.table.all(ctx)
	if err != nil {
		return err
	}
	wrong := 0
	for key, value := range have {
		if value != want[key] {
			wrong++
		}
	}
	printLine("    afterwards the cache has %s, %d of them wrong", count(len(have), "value"), wrong)
	if wrong > 0 {
		return errors.New("the cache is wrong")
	}
	return nil
}

// drain waits until the cache has received all changes so far. They arrive in the order
// in which they were committed, so drain makes one more and waits for that.
func (s *story) drain(ctx context.Context) error {
	if _, err := s.radio.settle(ctx); err != nil {
		return err
	}
	for len(s.heard) > 0 {
		<-s.heard
	}
	if err := s.table.set(ctx, "settled", "1"); err != nil {
		return err
	}
	for line := ""; line != "settled has changed: forgotten"; {
		select {
		case line = <-s.heard:
		case <-ctx.Done():
			return fmt.Errorf("the last change was not heard: %w", ctx.Err())
		}
	}
	return nil
}
