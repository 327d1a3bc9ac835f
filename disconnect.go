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

	// Err is the server's *[pq.Error] if it gave a reason, or else the system's error,
	// joined with the *pq.Error of the statement if the connection ended after it.
	Err error

	// Sent says that part of the statement was sent, so it may or may not have been
	// executed.
	Sent bool

	// Time is when the loss was detected.
	Time time.Time

	retry bool // database/sql may run the statement on another session
}

// Error returns the reason, its cause, and whether the statement's outcome is unknown.
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

// Is reports whether database/sql may retry on another session: target is
// [driver.ErrBadConn], nothing was sent, and no transaction was open that BeginTx began.
func (e *DisconnectError) Is(target error) bool {
	return target == driver.ErrBadConn && e.retry && !e.Sent
}

// IsDisconnect reports whether err is or wraps a *[DisconnectError].
func IsDisconnect(err error) bool {
	var e *DisconnectError
	return errors.As(err, &e)
}

// errCancelTimeout and libpqError are the errors with which pgnotify itself gives a
// session up.
var errCancelTimeout = errors.New("cancel_timeout expired")

type libpqError struct{ cause any }

func (e *libpqError) Error() string { return fmt.Sprintf("lib/pq could not go on: %v", e.cause) }

// Unwrap returns what lib/pq said, unless that would have database/sql try again.
func (e *libpqError) Unwrap() error {
	if err, ok := e.cause.(error); ok && err != driver.ErrBadConn {
		return err
	}
	return nil
}

// newDisconnectError describes a loss.
func newDisconnectError(loss *wire.Loss) *DisconnectError {
	e := &DisconnectError{Reason: lossReason(loss), Err: loss.Err, Time: loss.Time}
	switch {
	case loss.Fatal != nil:
		e.Err = serverError(loss.Fatal)
	case loss.Error != nil: // of the statement, whose answer was then cut off
		e.Err = fmt.Errorf("%w, after %w", loss.Err, serverError(loss.Error))
	}
	return e
}

// serverError converts an ErrorResponse to lib/pq's type.
func serverError(r *wire.Response) *pq.Error {
	return &pq.Error{
		Severity: r.Severity, Code: r.Code, Message: r.Message, Detail: r.Detail, Hint: r.Hint,
		Position: r.Position, InternalPosition: r.InternalPosition, InternalQuery: r.InternalQuery,
		Where: r.Where, Schema: r.Schema, Table: r.Table, Column: r.Column,
		DataTypeName: r.DataTypeName, Constraint: r.Constraint, File: r.File, Line: r.Line, Routine: r.Routine,
	}
}

// DisconnectConn is a session that reports its loss, even while it is idle and nobody
// uses it.
//
// On Linux, macOS and the BSDs, one poller for the whole process sees the end of a
// connection at once, and so does, everywhere, the goroutine that reads a connection
// of DialContext that is no socket. Elsewhere a session sees it at once if it listens,
// waits, or had Disconnected or WatchContext called; other sessions see it when they
// are next used. A network that falls silent ends no connection: see Config.KeepAlive
// and Config.TCPUserTimeout. While rows are open, or a COPY is under way, the next
// call on them sees the end.
type DisconnectConn interface {
	// Disconnected returns a channel that is closed when the session is lost or
	// returned to the pool.
	Disconnected() <-chan struct{}

	// DisconnectErr returns nil while the session lives, a *[DisconnectError] once it
	// is lost, and [ErrReleased] once it was returned to the pool. It does not ask the
	// server.
	DisconnectErr() error

	// WatchContext returns a copy of ctx that is cancelled when the session is lost,
	// with the *[DisconnectError] as [context.Cause], or returned to the pool, with
	// ErrReleased. Call cancel when done with it. It starts no goroutine, except on
	// systems without a poller, such as Windows, one that reads the session until its
	// end.
	WatchContext(ctx context.Context) (_ context.Context, cancel context.CancelFunc)

	// SyscallConn gives access to the session's socket, for a poller of the program's
	// own. The socket must not be read, written or closed. SyscallConn fails when the
	// session is lost or returned, and with [ErrNotSupported] over a connection of
	// DialContext that has no socket. The RawConn fails once the session has ended.
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

// alreadyOver is a closed channel, for sessions that have already ended.
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
	if !s.watched() {
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
