package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A story is what happens to the cache.
type story struct {
	table table
	radio *radio
	cache *cache
	heard chan string // what the cache and the Listener report
}

// told is called by the cache, which must not wait for the story.
func (s *story) told(format string, args ...any) {
	select {
	case s.heard <- fmt.Sprintf(format, args...):
	default: // during the storm nobody listens
	}
}

func (s *story) onEvent(e pgnotify.ListenerEvent) {
	switch e.Kind {
	case pgnotify.ListenerConnected:
		s.told("the listener has a session")
	case pgnotify.ListenerDisconnected:
		s.told("the listener has lost its session: %v", e.Err)
	}
}

// await prints reports until all of texts have come, in any order.
func (s *story) await(ctx context.Context, texts ...string) error {
	for len(texts) > 0 {
		select {
		case line := <-s.heard:
			printLine("    %s", line)
			for i, text := range texts {
				if strings.HasPrefix(line, text) {
					texts = append(texts[:i], texts[i+1:]...)
					break
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("not heard: %q: %w", texts, ctx.Err())
		}
	}
	return nil
}

func (s *story) tell(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return s.await(ctx, "the listener has", "CatchUp") },
		s.hit, s.invalidation, s.loss, s.storm,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// get asks the cache, and fails if the answer is not what the story expects.
func (s *story) get(ctx context.Context, value string, hit bool) error {
	start := time.Now()
	got, cached, err := s.cache.get(ctx, "apple")
	if err != nil {
		return err
	}
	from := map[bool]string{true: "cache", false: "table"}
	printLine("apple is %s, says the %s, after %.3f ms", got, from[cached], milliseconds(time.Since(start)))
	if got != value || cached != hit {
		return fmt.Errorf("it should be %s, from the %s", value, from[hit])
	}
	return nil
}

// set changes the table as any program could that knows nothing of the cache.
func (s *story) set(ctx context.Context, value, remark string) error {
	printLine("UPDATE: apple is %s%s", value, remark)
	return s.table.set(ctx, "apple", value)
}

func (s *story) hit(ctx context.Context) error {
	if err := s.get(ctx, "3", false); err != nil {
		return err
	}
	return s.get(ctx, "3", true)
}

func (s *story) invalidation(ctx context.Context) error {
	if err := s.set(ctx, "4", ""); err != nil {
		return err
	}
	if err := s.await(ctx, "apple has changed"); err != nil {
		return err
	}
	if err := s.get(ctx, "4", false); err != nil {
		return err
	}
	return s.get(ctx, "4", true)
}

// loss changes the table while the Listener has no session.
func (s *story) loss(ctx context.Context) error {
	printLine("pg_terminate_backend, of the listener's session")
	s.radio.leave()
	err := s.radio.cut(ctx, s.table)
	if err == nil {
		err = s.await(ctx, "the listener has lost")
	}
	if err == nil {
		err = s.set(ctx, "5", ", and nobody hears it")
	}
	if err == nil {
		err = s.get(ctx, "4", true) // it cannot know
	}
	s.radio.comeIn()
	if err == nil {
		err = s.await(ctx, "the listener has a session", "CatchUp")
	}
	if err == nil {
		err = s.get(ctx, "5", false)
	}
	if err != nil {
		return err
	}
	return s.get(ctx, "5", true)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
