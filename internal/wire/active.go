package wire

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// A reader is the goroutine that owns the socket of an active session. It belongs to
// the Conn, ends when the session is lost or closed, and is joined by Close. It waits
// only for lib/pq, and only while a result is under way.
type reader struct {
	inbox *inbox
	done  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex      // guards the fields below, and orders changes of the read deadline
	polls   []chan struct{} // closed when everything that has arrived is read
	polling bool            // the reader is draining, and the deadline is its own
}

// Activate starts the goroutine that reads the socket. It must be called while no
// request is under way; later calls do nothing. It reports whether the session is now
// active, which a lost session is not.
func (c *Conn) Activate() bool {
	if c.active.Load() == nil && c.Busy() { // the lock would wait for the answer
		return false
	}
	if c.lockScan() != nil {
		return true
	}
	defer c.readMu.Unlock()
	if c.Loss() != nil {
		return false
	}
	c.scan.hear().small = make([]byte, smallSize)
	r := &reader{inbox: newInbox(), done: make(chan struct{})}
	c.active.Store(r)
	if loss := c.Loss(); loss != nil { // Close may have seen r or not
		r.inbox.close(loss.Err)
		close(r.done)
		return false
	}
	go c.readAll(r) // ends when the session does; joined by Close
	return true
}

// Active reports whether the session is active.
func (c *Conn) Active() bool { return c.active.Load() != nil }

// readAll feeds lib/pq from the socket until the session ends.
func (c *Conn) readAll(r *reader) {
	defer close(r.done)
	for {
		if err := c.forwardAll(r); err != nil {
			_ = c.lose(err)
			return
		}
		err := c.fill()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = c.drain(r)
		}
		if err != nil {
			_ = c.lose(c.silence(err))
			return
		}
	}
}

// errInboxClosed ends a reader whose session was ended by another goroutine.
var errInboxClosed = errors.New("closed")

// forwardAll hands over what the scanner has.
func (c *Conn) forwardAll(r *reader) error {
	for {
		span, err := c.scan.next()
		if err != nil {
			return err
		}
		calls := c.scan.takeCalls()
		if calls != 0 {
			r.inbox.call(calls)
		}
		switch piece := span[:min(len(span), inboxSize)]; {
		case len(piece) > 0:
			if !r.inbox.put(piece, c.scan.ready && len(piece) == len(span)) {
				return errInboxClosed
			}
			c.scan.take(len(piece))
		case calls == 0:
			if c.scan.empty() {
				c.scan.release()
			}
			return nil
		}
	}
}

// Bounds of a read that looks for what has already arrived.
const (
	pollTime = 500 * time.Microsecond
	maxLooks = 8
)

// look is fill for bytes that have already arrived; if there are none, its error is
// os.ErrDeadlineExceeded. It leaves a read deadline behind. A read that was delayed
// until its deadline has not looked at the socket, so there is a second look, and
// further ones while the goroutine was delayed.
func (c *Conn) look() error {
	for looks := 1; ; looks++ {
		start := time.Now()
		if err := c.net.SetReadDeadline(start.Add(pollTime)); err != nil {
			return err
		}
		err := c.fill()
		looked := looks > 1 && time.Since(start) < 2*pollTime || looks == maxLooks
		if looked || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// pollPatience is how often a Poll checks whether a request has begun.
const pollPatience = 10 * time.Millisecond

// drain reads until the socket has nothing more, and then answers the Polls.
func (c *Conn) drain(r *reader) error {
	for polls := c.takePolls(r); len(polls) > 0; polls = c.takePolls(r) {
		if err := c.readArrived(r); err != nil {
			return err
		}
		for _, p := range polls {
			close(p)
		}
	}
	return nil
}

// takePolls returns the waiting Polls. If there are none, it lets reads block again.
func (c *Conn) takePolls(r *reader) []chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	polls := r.polls
	r.polls = nil
	r.polling = len(polls) > 0
	if !r.polling {
		_ = c.net.SetReadDeadline(time.Time{})
	}
	return polls
}

// readArrived reads what has arrived.
func (c *Conn) readArrived(r *reader) error {
	for {
		err := c.look()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err == nil {
			err = c.forwardAll(r)
		}
		if err != nil {
			return err
		}
	}
}

// Poll returns once everything that had arrived on an active, idle session at the time
// of the call has been handed over, within about a millisecond. While a request is
// under way it returns at once: the server sends notifications before or after an
// answer, not within it.
func (c *Conn) Poll(ctx context.Context) {
	r := c.active.Load()
	if r == nil || c.Busy() || c.Loss() != nil {
		return
	}
	arrived := make(chan struct{})
	r.mu.Lock()
	r.polls = append(r.polls, arrived)
	if !r.polling {
		_ = c.net.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	}
	r.mu.Unlock()
	for {
		select {
		case <-arrived:
			return
		case <-r.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(pollPatience):
			if c.Busy() { // the reader may wait for the consumer of the rows
				return
			}
		}
	}
}
