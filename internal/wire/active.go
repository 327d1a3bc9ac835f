package wire

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// A reader is the goroutine that owns the socket of an active session. It
// belongs to the Conn, ends when the session is lost or closed, and is joined
// by Close. It waits for nobody but lib/pq, and for that only while a result is
// under way.
type reader struct {
	inbox *inbox
	done  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex      // guards polls, and orders changes of the read deadline
	polls []chan struct{} // closed when everything that has arrived is read
}

// Activate starts the goroutine that reads the socket. It must be called while
// no request is under way; later calls do nothing. It reports whether the
// session is active now, which a session already lost is not.
func (c *Conn) Activate() bool {
	if c.active.Load() != nil {
		return true
	}
	if c.Busy() || c.Loss() != nil {
		return false
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.scan.small = make([]byte, smallSize)
	r := &reader{inbox: newInbox(), done: make(chan struct{})}
	c.active.Store(r)
	go c.readAll(r) // ends when the session does; joined by Close
	if loss := c.Loss(); loss != nil {
		r.inbox.close(loss.Err)
	}
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
			_ = c.lose(err)
			return
		}
	}
}

// errInboxClosed ends a reader whose session was ended by somebody else.
var errInboxClosed = errors.New("closed")

// forwardAll hands over what the scanner has.
func (c *Conn) forwardAll(r *reader) error {
	for {
		span, err := c.scan.next()
		if err != nil {
			return err
		}
		if len(span) == 0 {
			break
		}
		if !r.inbox.put(span, c.scan.ready) {
			return errInboxClosed
		}
		c.scan.take(len(span))
	}
	if c.scan.empty() {
		c.scan.release()
	}
	return nil
}

// pollTime bounds a read that looks for what has already arrived.
const pollTime = time.Millisecond

// drain reads until the socket has nothing more and answers those who asked.
func (c *Conn) drain(r *reader) error {
	for {
		polls := r.take()
		if err := c.readArrived(r); err != nil {
			return err
		}
		for _, p := range polls {
			close(p)
		}
		if r.rest(c) {
			return nil
		}
	}
}

// readArrived reads, without waiting for longer than pollTime, what has
// arrived.
func (c *Conn) readArrived(r *reader) error {
	for {
		if err := c.net.SetReadDeadline(time.Now().Add(pollTime)); err != nil {
			return err
		}
		err := c.fill()
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

func (r *reader) take() []chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	polls := r.polls
	r.polls = nil
	return polls
}

// rest lets reads wait again, unless somebody has asked meanwhile.
func (r *reader) rest(c *Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.polls) > 0 {
		return false
	}
	_ = c.net.SetReadDeadline(time.Time{})
	return true
}

// Poll returns when what had arrived on an active, idle session at the time of
// the call has been handed over, within about a millisecond. While a request
// is under way it returns at once: the server sends notifications before or
// after an answer, not within it.
func (c *Conn) Poll(ctx context.Context) {
	r := c.active.Load()
	if r == nil || c.Busy() || c.Loss() != nil {
		return
	}
	arrived := make(chan struct{})
	r.mu.Lock()
	r.polls = append(r.polls, arrived)
	_ = c.net.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	r.mu.Unlock()
	select {
	case <-arrived:
	case <-r.done:
	case <-ctx.Done():
	}
}
