package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify/examples/live/internal/feed"
)

// A story is what happens to the browsers of ann and bob.
type story struct {
	site     *site
	ann, bob *browser
}

func (s *story) tell(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s.ann = &browser{name: "ann", url: s.site.url}
	s.bob = &browser{name: "bob", url: s.site.url}
	if err := s.open(ctx); err != nil {
		return err
	}
	defer closing(s.ann, &err)
	for _, step := range []func(context.Context) error{s.live, s.loss, s.away, s.slow} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// open has ann open the page.
func (s *story) open(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.site.url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	size, err := io.Copy(io.Discard, answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s, %v", answer.Status, err)
	}
	if err := s.insert(ctx, 3); err != nil {
		return err
	}
	if err := s.ann.open(ctx); err != nil {
		return err
	}
	printLine("%s is the page, of %.1f kB; -serve has it stay", s.site.url, float64(size)/1000)
	return s.show(s.ann, 3)
}

// live inserts an entry while ann looks.
func (s *story) live(ctx context.Context) error {
	printLine("1 entry is inserted")
	start := time.Now()
	if err := s.insert(ctx, 1); err != nil {
		return err
	}
	if err := s.show(s.ann, 1); err != nil {
		return err
	}
	printLine("    after %.1f ms", float64(time.Since(start).Microseconds())/1000)
	return nil
}

// loss inserts entries while the listener has no session.
func (s *story) loss(ctx context.Context) error {
	printLine("pg_terminate_backend, of the listener's session, and 2 entries before it has another")
	if err := s.site.radio.leave(ctx); err != nil {
		return err
	}
	err := s.site.radio.cut(ctx, s.site.db)
	if err == nil {
		err = s.insert(ctx, 2)
	}
	s.site.radio.comeIn()
	if err != nil {
		return err
	}
	return s.show(s.ann, 2)
}

// away makes bob lose his connection, and come back.
func (s *story) away(ctx context.Context) error {
	printLine("bob comes, loses his connection, misses 2 entries, and comes again")
	if err := s.bob.open(ctx); err != nil {
		return err
	}
	err := s.show(s.bob, int(s.ann.last))
	closing(s.bob, &err)
	if err != nil {
		return err
	}
	if err := s.insert(ctx, 2); err != nil {
		return err
	}
	if err := s.bob.open(ctx); err != nil {
		return err
	}
	if err := s.show(s.bob, 2); err != nil {
		return err
	}
	return s.show(s.ann, 2)
}

// slow inserts many entries. During the first half bob reads nothing. When he does,
// what he has missed is read from the table, while new entries arrive and are in both.
func (s *story) slow(ctx context.Context) (err error) {
	defer closing(s.bob, &err)
	const half = 500
	printLine("%d entries are inserted; ann reads, and bob when %d are there", 2*half, half)
	ann, bob := make(chan error, 1), make(chan error, 1)
	go func() { ann <- s.ann.read(2 * half) }() // both end with ctx, and are joined below
	err = s.insert(ctx, half)
	go func() { bob <- s.bob.read(2 * half) }()
	if err == nil {
		err = s.insert(ctx, half)
	}
	if err != nil { // there is nothing to wait for
		_, _ = s.ann.Close(), s.bob.Close()
	}
	if err = errors.Join(err, <-ann, <-bob); err != nil {
		return err
	}
	s.print(s.ann)
	s.print(s.bob)
	printLine("both have the entries 1 to %d, in order, each one once", s.bob.last)
	return nil
}

// insert inserts n entries, each in a transaction of its own.
func (s *story) insert(ctx context.Context, n int) error {
	for range n {
		if err := feed.Insert(ctx, s.site.db, strings.Repeat("hear, hear! ", 20)); err != nil {
			return err
		}
	}
	return nil
}

// show lets a browser read n entries, and prints where they came from.
func (s *story) show(b *browser, n int) error {
	err := b.read(n)
	if err == nil {
		s.print(b)
	}
	return err
}

func (s *story) print(b *browser) {
	text := fmt.Sprintf("    %s has entries up to %d: %d came as notifications, %d from the table",
		b.name, b.last, b.live, b.history)
	if b.gaps > 0 {
		text += fmt.Sprintf("; gaps: %d", b.gaps)
	}
	printLine("%s", text)
}
