package pgnotify

import (
	"context"
	"log/slog"
	"runtime/debug"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// startWatch has the end of the session noticed while nobody uses it. If the system or
// the socket does not allow that, the end is noticed at the next use, or at once by a
// session that is active.
func (s *session) startWatch() {
	if s.link.Watch(s.hangUp); s.watched() || s.socket == nil {
		return
	}
	w, err := fdwatch.Start(s.socket, s.hangUp)
	if err != nil {
		return
	}
	s.watch.Store(w)
	if s.wire.Loss() != nil { // it ended before there was a watch to close
		w.Close()
	}
}

// watched reports whether the session is told when the server closes the connection.
func (s *session) watched() bool { return s.watch.Load() != nil || s.link.ReadsAhead() }

// readable reports whether the server has sent something that was not read, or closed
// the connection.
func (s *session) readable() bool {
	return s.link.Readable() || s.socket != nil && fdwatch.Readable(s.socket)
}

// hangUp is called on fdwatch's goroutine, or that of a connection that is read ahead,
// when the server may have closed the connection. Its last words are still to be read.
// Whoever has the session's turn reads them when done, or else this goroutine does.
func (s *session) hangUp() {
	s.hungUp.Store(true)
	go func() { // ends when the socket is read to its end, which does not block
		if s.turn.TryTake() {
			s.freeTurn()
		}
	}()
}

// Lost implements wire.Events.
func (s *session) Lost() {
	if w := s.watch.Load(); w != nil {
		w.Close()
	}
	s.leaseMu.Lock()
	waiting := s.ends
	s.ends = nil
	s.leaseMu.Unlock()
	if waiting != nil {
		waiting.tell(s.disconnectError())
	}
	s.tellLoss(false)
}

// tellLoss calls OnDisconnect once the session has been given to the pool and is lost.
func (s *session) tellLoss(given bool) {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if given { // what OnConnect has done is no borrower's
		s.given, s.trace = true, noTrace
	}
	if s.given && !s.told && s.wire.Loss() != nil && s.config.OnDisconnect != nil {
		s.told = true
		go s.onDisconnect() // the program's code; nobody waits for it
	}
}

func (s *session) onDisconnect() {
	defer func() {
		if p := recover(); p != nil {
			s.log().Error("pgnotify: OnDisconnect panicked", "panic", p, slog.String("stack", string(debug.Stack())))
		}
	}()
	s.config.OnDisconnect(&s.self, s.disconnectError())
}

// disconnectError returns why the session is lost, or nil if it is not.
func (s *session) disconnectError() *DisconnectError {
	if loss := s.wire.Loss(); loss != nil {
		return newDisconnectError(loss)
	}
	return nil
}

// ends holds those who wait for a borrower's session to be lost or returned.
type ends struct {
	over    chan struct{}
	cancels map[*context.CancelCauseFunc]struct{}
}

// tell wakes them. They registered under leaseMu; tell is called without it.
func (e *ends) tell(cause error) {
	close(e.over)
	for cancel := range e.cancels {
		(*cancel)(cause)
	}
}

// awaitLocked returns where to wait for the end of the given lease or of the session,
// or why there is nothing to wait for. The caller holds leaseMu.
func (s *session) awaitLocked(lease uint64) (*ends, error) {
	if !s.hasLease(lease) && s.leaseErrorLocked(lease) == ErrReleased {
		return nil, ErrReleased
	}
	if lost := s.disconnectError(); lost != nil {
		return nil, lost
	}
	if s.ends == nil {
		s.ends = &ends{over: make(chan struct{}), cancels: make(map[*context.CancelCauseFunc]struct{})}
	}
	return s.ends, nil
}
