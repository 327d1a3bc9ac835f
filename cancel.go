package pgnotify

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// cancelRequestCode stands where a start-up packet has its protocol version:
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
const cancelRequestCode = 1234<<16 | 5678

// resendCancel is how long a cancelled statement may take to end before the
// request is sent again: the server ignores one that comes between two
// statements.
const resendCancel = 250 * time.Millisecond

// A cancellation ends the statement under way on the server. The operation and
// the goroutine that context.AfterFunc starts share it; it is made by whoever
// needs it first, so that a statement which is not cancelled costs nothing.
type cancellation struct {
	finished chan struct{} // closed when the operation is over
	done     chan struct{} // closed when no cancel request can reach the server any more
}

// cancellation returns that of the operation under way.
func (o *operation) cancellation() *cancellation {
	c := &cancellation{finished: make(chan struct{}), done: make(chan struct{})}
	if o.cancel.CompareAndSwap(nil, c) {
		return c
	}
	return o.cancel.Load()
}

// attach has the statement cancelled when ctx ends or, where ctx cannot end, when
// that of its transaction does. It starts no goroutine before that.
func (s *session) attach(ctx context.Context) {
	if ctx.Done() == nil && s.op.txCtx != nil {
		ctx = s.op.txCtx
	}
	if s.op.ctx = ctx; ctx.Done() == nil {
		return
	}
	if s.op.onCancel == nil {
		s.op.onCancel = s.cancelStatement
	}
	s.op.stop = context.AfterFunc(ctx, s.op.onCancel)
}

// detach ends the watch over the context and reports whether the context had
// ended. It returns only when no cancel request is under way, so that none can
// hit a later statement.
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
	close(c.finished)
	<-c.done
	s.op.cancel.Store(nil)
	return true
}

// cancelStatement runs on the goroutine of context.AfterFunc. It repeats the
// cancel request until the operation is over, and closes the socket when it is
// not over within Config.CancelTimeout, or when a request is still under way
// then: that one could hit a later statement.
func (s *session) cancelStatement() {
	c := s.op.cancellation()
	defer close(c.done)
	ctx, stop := context.WithTimeout(background, s.config.cancelTimeout())
	defer stop()
	lost := errCancelTimeout
	for ctx.Err() == nil {
		if err := s.sendCancel(ctx); err != nil {
			lost = fmt.Errorf("%w: %v", errCancelTimeout, err) // not %w: the deadline is not the caller's
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case <-c.finished:
			return
		case <-ctx.Done():
		case <-time.After(resendCancel):
		}
	}
	s.wire.Abort(lost)
}

// sendCancel sends a cancel request to the server's address, under the session's
// TLS, and waits until the server has closed that connection: then the signal
// has been sent, and nothing is left that could hit a later statement.
func (s *session) sendCancel(ctx context.Context) error {
	pid, key := s.wire.Backend()
	if len(key) == 0 {
		return fmt.Errorf("%w: the server gave no key to cancel with", ErrNotSupported)
	}
	link, err := s.link.Route.Connect(ctx)
	if err != nil {
		return err
	}
	defer link.Abort()
	stop := context.AfterFunc(ctx, func() { _ = link.Abort() })
	defer stop()

	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	packet = binary.BigEndian.AppendUint32(packet, cancelRequestCode)
	packet = binary.BigEndian.AppendUint32(packet, pid)
	if _, err := link.Write(append(packet, key...)); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, link)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return nil // however the server closed it
}
