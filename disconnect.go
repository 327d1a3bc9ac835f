package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A DisconnectError says that the session is lost, and why.
type DisconnectError struct {
	Reason DisconnectReason

	// Err is the server's *[pq.Error] where it gave a reason, or else the
	// system's error, together with the *pq.Error of the statement where the
	// connection ended after that.
	Err error

	// Sent says that a part of the statement had been sent, so that it may or
	// may not have been executed.
	Sent bool

	// Time is when the loss was seen.
	Time time.Time

	retry bool // database/sql may run the statement on another session
}

// Error names the reason, its cause, and whether the statement's outcome is
// unknown.
func (e *DisconnectError) Error() string {
	text := "pgnotify: session lost: " + e.Reason.String()
	if e.Err != nil {
		text += ": " + strings.TrimPrefix(e.Err.Error(), e.Reason.String()+": ")
	}
	if e.Sent {
		text += " (the statement had been sent: its outcome is unknown)"
	}
	return text
}

// Unwrap returns Err.
func (e *DisconnectError) Unwrap() error { return e.Err }

// Is reports whether the error is [driver.ErrBadConn] for database/sql, which
// then takes another session: only if nothing was sent, and no transaction was
// open.
func (e *DisconnectError) Is(target error) bool {
	return target == driver.ErrBadConn && e.retry && !e.Sent
}

// IsDisconnect reports whether err says that a session was lost.
func IsDisconnect(err error) bool {
	var e *DisconnectError
	return errors.As(err, &e)
}

// errCancelTimeout and libpqError are the errors with which pgnotify itself gives
// up a session.
var errCancelTimeout = errors.New("cancel_timeout expired")

type libpqError struct{ cause any }

func (e *libpqError) Error() string {
	return fmt.Sprintf("lib/pq could not go on: %v", e.cause)
}

// newDisconnectError describes a loss.
func newDisconnectError(loss *wire.Loss) *DisconnectError {
	e := &DisconnectError{Reason: lossReason(loss), Err: loss.Err, Time: loss.Time}
	switch {
	case loss.Fatal != nil:
		e.Err = serverError(loss.Fatal)
	case loss.Error != nil: // of the statement, whose answer broke off then
		e.Err = fmt.Errorf("%w, after %w", loss.Err, serverError(loss.Error))
	}
	return e
}

// serverError gives an ErrorResponse the shape that lib/pq gives it.
func serverError(r *wire.Response) *pq.Error {
	return &pq.Error{
		Severity: r.Severity, Code: r.Code, Message: r.Message, Detail: r.Detail, Hint: r.Hint,
		Position: r.Position, InternalPosition: r.InternalPosition, InternalQuery: r.InternalQuery,
		Where: r.Where, Schema: r.Schema, Table: r.Table, Column: r.Column,
		DataTypeName: r.DataTypeName, Constraint: r.Constraint, File: r.File, Line: r.Line, Routine: r.Routine,
	}
}

// DisconnectConn is a session that tells when it is lost, also while it is idle
// and nobody uses it.
//
// On Linux, macOS and the BSDs the end of a connection is seen at once, by one
// poller for the whole process. Elsewhere, and over a connection of DialContext
// that has no descriptor, it is seen at once by a session that listens, waits, or
// had Disconnected or WatchContext called, and by others when they are used next.
// A network that falls silent ends no connection: see Config.KeepAlive and
// Config.TCPUserTimeout. While rows are open, or a COPY is under way, the end is
// seen by the next call for them.
type DisconnectConn interface {
	// Disconnected returns a channel that is closed when the session is lost, or
	// returned to the pool.
	Disconnected() <-chan struct{}

	// DisconnectErr returns nil while the session lives, a *[DisconnectError] when
	// it is lost, and [ErrReleased] when it was returned to the pool. It does not
	// ask the server.
	DisconnectErr() error

	// WatchContext returns a copy of ctx that is cancelled when the session is
	// lost, with the *[DisconnectError] as [context.Cause], or returned, with
	// ErrReleased. Call cancel when you are done with it. It starts no goroutine.
	WatchContext(ctx context.Context) (_ context.Context, cancel context.CancelFunc)

	// SyscallConn gives access to the session's socket, for a poller of one's own;
	// the socket must not be read from, written to, or closed. It fails when the
	// session is lost or returned, and with [ErrNotSupported] over a connection of
	// DialContext that has none. The RawConn fails when the session has ended.
	SyscallConn() (syscall.RawConn, error)
}

// Disconnected implements [DisconnectConn].
func (c *Conn) Disconnected() <-chan struct{} {
	s := c.s
	s.leaseMu.Lock()
	e, err := s.awaitLocked(c.lease)
	s.leaseMu.Unlock()
	if err != nil {
		return alreadyOver
	}
	s.hearEnd()
	return e.over
}

// alreadyOver is the channel of what is over before anybody waits.
var alreadyOver = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// DisconnectErr implements [DisconnectConn].
func (c *Conn) DisconnectErr() error {
	if err := c.checkLease(); err == ErrReleased {
		return err
	}
	if lost := c.s.disconnectError(); lost != nil {
		return lost
	}
	return nil
}

// WatchContext implements [DisconnectConn].
func (c *Conn) WatchContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := c.s
	s.leaseMu.Lock()
	e, err := s.awaitLocked(c.lease)
	if err == nil {
		e.cancels[&cancel] = struct{}{}
	}
	s.leaseMu.Unlock()
	if err != nil {
		cancel(err)
		return ctx, func() {}
	}
	s.hearEnd()
	return ctx, func() {
		s.leaseMu.Lock()
		if s.ends == e {
			delete(e.cancels, &cancel)
		}
		s.leaseMu.Unlock()
		cancel(nil)
	}
}

// hearEnd makes sure that the end of the session is seen at once.
func (s *session) hearEnd() {
	if s.watch.Load() == nil {
		s.activate()
	}
}

// SyscallConn implements [DisconnectConn].
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if err := c.DisconnectErr(); err != nil {
		return nil, err
	}
	if c.s.socket == nil {
		return nil, ErrNotSupported
	}
	return c.s.socket, nil
}
