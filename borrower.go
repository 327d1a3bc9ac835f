package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"runtime"
	"strings"
	"weak"
)

// database/sql tells a session by IsValid and ResetSession that another borrower is to
// have it. Beneath a wrapper that hides both, the session must find out by itself, and
// then do what they would have done. What it can know for certain:
//
//   - A method of sql.DB takes a session from the pool for itself. A request that comes
//     from one is a new borrower's.
//   - Each sql.Conn is a borrower of its own, which shows when it is given to FromConn.
//
// None of this concerns a session that database/sql tells, and none that the borrower
// has not made different from a new one. A session is told, if at all, when its first
// borrower returns it.

// toldLeases is the number above which leases are of a session that database/sql tells.
const toldLeases = 1 << 32

// isUntold reports whether database/sql has told the session nothing so far.
func (s *session) isUntold() bool { return s.lease.Load() < toldLeases }

// noteTelling notes that database/sql tells the session.
func (s *session) noteTelling() {
	s.leaseMu.Lock()
	s.leases |= toldLeases
	s.leaseMu.Unlock()
}

// A trace is what the session knows of its borrower.
type trace uint8

const (
	noTrace     trace = iota
	hasPrepared       // it has only prepared statements, which leave nothing
	hasRequest        // it may have left LISTEN or a transaction
	hasHandle         // it may have left anything
	noWrapper         // the pool holds the session itself, and will tell it
)

// addTrace returns what was known before.
func (s *session) addTrace(t trace) (before trace) {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	before = s.trace
	s.trace = max(before, t)
	return before
}

// beginUntold is begin for a session that has not been told of a return.
func (s *session) beginUntold(ctx context.Context, t trace) error {
	before := s.addTrace(t)
	if before == noWrapper {
		return s.take(ctx)
	}
	if s.mayHaveLeft(before) && isCalledByPool() {
		if err := s.changeHands(); err != nil {
			return err
		}
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	s.catchUp() // as ResetSession does
	if s.wire.Loss() == nil {
		return nil
	}
	err := s.lossError(nil)
	s.detach()
	s.closeGate()
	s.freeTurn()
	return err
}

// mayHaveLeft reports whether a borrower may have left something that the next one must
// not have. If it has a transaction of database/sql, there is no next one yet.
func (s *session) mayHaveLeft(t trace) bool {
	return !s.inTx() && (t == hasHandle || t == hasRequest && (s.wire.Listened() || s.wire.Status() != 'I'))
}

// changeHands returns the session in the name of its last borrower, and gives it to the
// next one. If that one cannot have it, the error has the pool take another session. If it
// is lost, the request will say so.
func (s *session) changeHands() error {
	if !s.returned() && s.wire.Loss() == nil {
		return errLeftBehind
	}
	s.beginLease()
	return nil
}

var errLeftBehind = fmt.Errorf("pgnotify: the last borrower has left LISTEN or a transaction in the session, "+
	"beneath a wrapper that hides IsValid and ResetSession: %w", driver.ErrBadConn)

// inTx reports whether database/sql has a transaction open.
func (s *session) inTx() bool {
	t := s.op.tx.Load()
	return t != nil && !t.asked.Load()
}

// lendTo notes that FromConn was called for conn, which holds the session. If another
// sql.Conn held it before, lendTo ends what that one has left, unless that may as well be
// the new one's own: a transaction.
func (s *session) lendTo(conn *sql.Conn) error {
	if !s.isUntold() {
		return nil
	}
	left, owner := s.op.leave(), weak.Make(conn)
	last := left.owner
	left.owner = owner
	if last == owner || last == (weak.Pointer[sql.Conn]{}) || s.wire.Loss() != nil {
		return nil
	}
	s.endLease(false)
	s.beginLease()
	switch {
	case s.inTx():
	case s.wire.Status() != 'I':
		return errLeftBehind
	case s.wire.Listened():
		ctx, cancel := context.WithTimeout(background, s.config.cancelTimeout())
		defer cancel()
		return s.self.Unlisten(ctx)
	}
	return nil
}

// isCalledByPool reports whether a method of sql.DB, or the preparing of a sql.DB's
// statement on one more session, has led to this call.
func isCalledByPool() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	outermost, prepares := "", false
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		method, ok := strings.CutPrefix(f.Function, "database/sql.")
		if !ok && outermost != "" {
			break
		}
		if !ok {
			continue
		}
		outermost = method
		prepares = prepares || method == "(*Stmt).prepareOnConnLocked"
	}
	if method, ok := strings.CutPrefix(outermost, "(*DB)."); ok {
		return method[0] >= 'A' && method[0] <= 'Z' // and not a goroutine that belongs to a transaction
	}
	return prepares && strings.HasPrefix(outermost, "(*Stmt).")
}
