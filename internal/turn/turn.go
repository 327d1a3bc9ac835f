// Package turn decides whose turn it is to use a session that can answer one request at
// a time.
package turn

import (
	"context"
	"errors"
	"sync"
)

// ErrHeld is the error of Take while the turn is held. A held turn ends only when the
// program does something (reads its rows to the end, finishes a COPY), so waiting for
// it could take forever.
var ErrHeld = errors.New("turn: held")

type state uint8

const (
	free  state = iota
	taken       // somebody is in a call, which ends by itself
	held        // somebody has returned from the call and still has the turn
)

// A Turn is free, taken or held. The zero value is free. All methods are safe
// for concurrent use; Hold and Release are for whoever has the turn.
type Turn struct {
	mu      sync.Mutex // guards the fields below
	state   state
	changed chan struct{} // closed at the next change; nil when nobody waits
}

// Take waits until the turn is free and takes it. It fails with ErrHeld if the turn is,
// or becomes, held, and with ctx.Err() if ctx ends first.
func (t *Turn) Take(ctx context.Context) error {
	for {
		changed, err := t.take()
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TryTake takes the turn if it is free.
func (t *Turn) TryTake() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != free {
		return false
	}
	t.state = taken
	return true
}

// take returns a channel to wait for, or the outcome.
func (t *Turn) take() (<-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.state {
	case free:
		t.state = taken
		return nil, nil
	case held:
		return nil, ErrHeld
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed, nil
}

// Hold keeps the turn beyond the call that took it.
func (t *Turn) Hold() { t.set(held) }

// Release frees the turn.
func (t *Turn) Release() { t.set(free) }

func (t *Turn) set(s state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = s
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}
