// Package awake measures waiting in time during which the process runs. When a process
// goes on after SIGSTOP, or a virtual machine after a pause, all its timers fire at once,
// ahead of the answers that have been waiting in its sockets. Whoever waits for the
// other side must not count that time as the other side's.
//
// A wait is divided into steps. A step that took much longer than it should counts as
// one step, and there is always another one after it, in which the process can read
// what has arrived. The package imports only the standard library.
package awake

import (
	"context"
	"sync"
	"time"
)

const (
	steps   = 8
	minStep = 10 * time.Millisecond // below that a busy machine looks like a pause
)

// A count is how much of a limit has passed since something was last heard.
type count struct {
	limit, step time.Duration
	ran         time.Duration // since then, while the process ran
	seen        time.Time     // the last look
	heard       time.Time
}

func newCount(limit time.Duration, now time.Time) count {
	return count{limit: limit, step: max(limit/steps, minStep), seen: now, heard: now}
}

// look brings the count up to date, and returns how long to wait for the next look, or
// 0 when the limit has passed. heard is when something was last heard.
func (c *count) look(now, heard time.Time) time.Duration {
	passed := now.Sub(c.seen)
	c.seen = now
	paused := passed > 2*c.step
	if heard.After(c.heard) {
		c.heard, c.ran = heard, 0
		passed = max(0, now.Sub(heard))
	}
	c.ran += min(passed, c.step)
	switch left := c.limit - c.ran; {
	case left > 0:
		return min(left, c.step)
	case paused && left > -c.limit: // a machine that is always late must come to an end
		return c.step
	}
	return 0
}

// AfterSilence calls f on a goroutine of its own when nothing has been heard for the
// limit. heard returns when something was last heard; nil means never. f is not called
// once stop has returned, unless it has been called before.
func AfterSilence(limit time.Duration, heard func() time.Time, f func()) (stop func()) {
	var (
		mu      sync.Mutex // guards the fields below
		stopped bool
		timer   *time.Timer
		count   = newCount(limit, time.Now())
	)
	look := func() {
		mu.Lock()
		last := count.heard
		if heard != nil {
			last = heard()
		}
		if stopped {
			mu.Unlock()
			return
		}
		wait := count.look(time.Now(), last)
		if wait > 0 {
			timer.Reset(wait)
			mu.Unlock()
			return
		}
		stopped = true
		mu.Unlock()
		f()
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(min(limit, count.step), look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// WithTimeout is [context.WithTimeoutCause], in time during which the process runs. The
// context has no Deadline. A nil cause is context.DeadlineExceeded.
func WithTimeout(parent context.Context, limit time.Duration, cause error) (context.Context, context.CancelFunc) {
	if cause == nil {
		cause = context.DeadlineExceeded
	}
	ctx, cancel := context.WithCancelCause(parent)
	expired := &expiry{error: cause}
	stop := AfterSilence(limit, nil, func() { cancel(expired) })
	return &timeout{ctx, expired}, func() {
		stop()
		cancel(context.Canceled)
	}
}

// An expiry is the cause of the inner context; no two are the same.
type expiry struct{ error }

func (e *expiry) Unwrap() error { return e.error }

// A timeout reports what a context with a deadline would.
type timeout struct {
	context.Context
	expired *expiry
}

func (t *timeout) Err() error {
	if err := t.Context.Err(); err == nil || context.Cause(t.Context) != error(t.expired) {
		return err
	}
	return context.DeadlineExceeded
}
