package pgnotify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgnotify/pgnotify/internal/awake"
)

// CancelConn is a session whose statement can be cancelled from another goroutine. To
// cancel a statement of your own, prefer its context, which cannot come too early.
type CancelConn interface {
	// Cancel asks the server to end the statement that is under way on the session,
	// including rows that are being read and COPY. Whoever runs it gets the server's
	// error 57014. If there is no statement, or the session is lost, Cancel does
	// nothing.
	//
	// Cancel blocks until the server has taken the request, which the statement may
	// outlive by a moment, until ctx ends, or for Config.CancelTimeout. The request
	// never hits a later statement: the present one does not return before the server
	// has taken the request, and if that is not known within Config.CancelTimeout, the
	// session is closed. The server tells by closing the connection of the request; where
	// a pooler does so late, as pgpool-II after 1 s, both wait for it. Cancel ignores a statement that is just about to be sent, and
	// one that another Cancel is busy with.
	Cancel(ctx context.Context) error
}

// Cancel implements [CancelConn].
func (c *Conn) Cancel(ctx context.Context) error {
	if err := c.s.cancelRunning(ctx, c.lease); err != nil {
		return &opError{"cancel", err}
	}
	return nil
}

func (s *session) cancelRunning(ctx context.Context, lease uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	request := s.op.gate.request() // before the lease, so that the lease belongs to the request
	switch err := s.checkLease(lease); {
	case err == ErrReleased:
		return err
	case err != nil: // the session is over
		return nil
	}
	if request == 0 || s.wire.Loss() != nil {
		return nil
	}
	caller := ctx
	ctx, stop := awake.WithTimeout(ctx, s.config.cancelTimeout(), errCancelTimeout)
	defer stop()
	r, err := s.dialCancel(ctx)
	if err != nil && ctx.Err() != nil && caller.Err() == nil {
		return fmt.Errorf("%w: %v", errCancelTimeout, err) // not %w: the deadline is not the caller's
	} else if err != nil {
		return err
	}
	if !s.op.gate.enter(request) {
		return r.link.Abort()
	}
	r.send(cancelPacket(s.wire.Backend()), s.config.cancelTimeout())
	if err := r.wait(ctx); ctx.Err() != nil {
		s.op.gate.leave(r)
		return err
	}
	r.close()
	s.op.gate.leave(nil)
	return r.err
}

// closeGate ends the request for Cancel. It waits for the server to take the requests
// that Cancel gave up on, each until Config.CancelTimeout after it was sent, unless the
// session is lost.
func (s *session) closeGate() {
	for r := s.op.gate.close(); r != nil; r = r.next {
		if s.wire.Loss() == nil && !r.taken() {
			s.wire.Abort(errCancelTimeout)
		}
		r.close()
	}
}

// resendCancel is how long a cancelled statement may take to end before the request is
// sent again: the server ignores a request that arrives between two statements.
const resendCancel = 250 * time.Millisecond

// A cancellation ends the statement under way on the server. The operation shares it
// with the goroutine that context.AfterFunc starts. Whichever needs it first makes it,
// so that a statement that is not cancelled costs nothing.
type cancellation struct {
	running context.Context // ends when the operation is over
	finish  context.CancelFunc
	done    chan struct{} // closed when no cancel request can reach the server any more
}

// cancellation returns the cancellation of the operation under way.
func (o *operation) cancellation() *cancellation {
	c := &cancellation{done: make(chan struct{})}
	c.running, c.finish = context.WithCancel(background)
	if o.cancel.CompareAndSwap(nil, c) {
		return c
	}
	return o.cancel.Load()
}

// attach has the statement cancelled when ctx ends or, if ctx cannot end, when the
// context of its transaction does. Until then there is no goroutine.
func (s *session) attach(ctx context.Context) {
	if t := s.op.tx.Load(); t != nil && ctx.Done() == nil {
		ctx = t.ctx
	}
	if s.op.ctx = ctx; ctx.Done() == nil {
		return
	}
	if s.op.onCancel == nil {
		s.op.onCancel = s.cancelStatement
	}
	s.op.stop = context.AfterFunc(ctx, s.op.onCancel)
}

// abandon has the statement cancelled although its context goes on. It reports false if
// the context has ended meanwhile, which cancels the statement itself.
func (s *session) abandon() bool {
	if s.op.stop != nil && !s.op.stop() {
		return false
	}
	s.op.stop = func() bool { return false }
	go s.cancelStatement() // ends with the operation; joined by detach
	return true
}

// Excess implements [wire.Events]: much of an answer is dropped, the output of a COPY or the
// rows that are being closed.
func (s *session) Excess() {
	if r := s.op.skipping; r != nil && !s.wire.Refused() {
		r.excess()
		return
	}
	s.abandon()
}

// detach stops watching the context, and reports whether the statement was cancelled.
// It returns only when no cancel request is under way, so that none can hit a later
// statement.
func (s *session) detach() (canceled bool) {
	if s.op.stop == nil {
		return false
	}
	stopped := s.op.stop()
	s.op.stop = nil
	if stopped {
		return false
	}
	c := s.op.cancellation()
	c.finish()
	<-c.done
	s.op.cancel.Store(nil)
	return true
}

// cancelStatement runs on a goroutine of its own. It repeats the cancel request until
// the operation is over. It closes the socket if the operation is not over within
// Config.CancelTimeout, or if a request is still under way then, which could hit a
// later statement.
func (s *session) cancelStatement() {
	c := s.op.cancellation()
	defer close(c.done)
	ctx, stop := awake.WithTimeout(background, s.config.cancelTimeout(), nil)
	defer stop()
	dialing, stopDialing := awake.WithTimeout(c.running, s.config.cancelTimeout(), nil)
	defer stopDialing()
	lost := errCancelTimeout
	for ctx.Err() == nil {
		if s.wire.Loss() != nil { // which may be why the context has ended
			return
		}
		r, err := s.dialCancel(dialing)
		if c.running.Err() != nil { // too late, and nothing was sent
			if err == nil {
				_ = r.link.Abort()
			}
			return
		}
		if err == nil {
			err = s.deliver(ctx, r)
		}
		if err != nil && (lost == errCancelTimeout || !errors.Is(err, context.DeadlineExceeded)) { // a deadline says less than an earlier error
			lost = fmt.Errorf("%w: %v", errCancelTimeout, err) // not %w: the deadline is not the caller's
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case <-c.running.Done():
			return
		case <-ctx.Done():
		case <-time.After(resendCancel):
		}
	}
	s.wire.Abort(lost)
}

// deliver sends a cancel request and waits until the server has taken it.
func (s *session) deliver(ctx context.Context, r *cancelRequest) error {
	defer r.close()
	r.send(cancelPacket(s.wire.Backend()), s.config.cancelTimeout())
	return r.wait(ctx)
}
