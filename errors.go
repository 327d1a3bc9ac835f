package pgnotify

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Errors that callers branch on, with [errors.Is].
var (
	// ErrClosed is the error of a session, a Listener or a Subscription that the
	// program closed. It matches [net.ErrClosed] too.
	ErrClosed error = &closedError{}

	// ErrReleased is the error of a handle whose [sql.Conn] went back to the pool.
	ErrReleased = errors.New("pgnotify: the session was returned to the pool")

	// ErrBusy is the error of a request on a session that is occupied by open rows or
	// by an unfinished COPY.
	ErrBusy = errors.New("pgnotify: the session is busy with open rows or COPY")

	// ErrNotPgnotify is the error for a driver connection that neither is one of
	// pgnotify's nor wraps one.
	ErrNotPgnotify = errors.New("pgnotify: not a pgnotify connection")

	// ErrSlowConsumer is the error of a subscription that [OverflowDisconnect] ended
	// because its queue was full.
	ErrSlowConsumer = errors.New("pgnotify: the subscriber was too slow")

	// ErrChannelName is the error for a channel name that PostgreSQL would refuse, or
	// truncate to another name.
	ErrChannelName = errors.New("pgnotify: invalid channel name")

	// ErrPayloadTooLong is the error for a payload above [MaxPayload] bytes.
	ErrPayloadTooLong = errors.New("pgnotify: payload too long")

	// ErrNotSupported is the error for a setting or request that the server, the
	// platform or lib/pq does not support.
	ErrNotSupported = errors.New("pgnotify: not supported")
)

// closedError is the type of ErrClosed: it has its own text, and matches net.ErrClosed.
type closedError struct{}

func (*closedError) Error() string { return "pgnotify: closed by this program" }

func (*closedError) Is(target error) bool { return target == net.ErrClosed }

// An opError puts what failed before why it failed.
type opError struct {
	op  string
	err error
}

func (e *opError) Error() string {
	return "pgnotify: " + e.op + ": " + withoutPackage(e.err)
}

// withoutPackage returns an error's text for use after text that names the package.
func withoutPackage(err error) string { return strings.TrimPrefix(err.Error(), "pgnotify: ") }

func (e *opError) Unwrap() error { return e.err }

// A canceledError is the error of a request that the program cancelled: the context's
// error and, beneath it, what became of the request.
type canceledError struct {
	ctx   error // context.Canceled or context.DeadlineExceeded
	cause error // context.Cause
	err   error // the server's 57014, or how the session was lost
}

func (e *canceledError) Error() string {
	text := fmt.Sprintf("pgnotify: %v", e.ctx)
	if e.cause != e.ctx && !e.isOwnLoss() {
		text += " (" + withoutPackage(e.cause) + ")"
	}
	return text + ": " + withoutPackage(e.err)
}

// isOwnLoss reports whether the cause is the loss that err tells of, as with the
// context of WatchContext.
func (e *canceledError) isOwnLoss() bool {
	cause, ok := e.cause.(*DisconnectError)
	var lost *DisconnectError
	return ok && errors.As(e.err, &lost) && cause.Reason == lost.Reason && cause.Time.Equal(lost.Time)
}

func (e *canceledError) Unwrap() []error { return []error{e.ctx, e.err, foreignError{e.cause}} }

// A foreignError comes from the program, and may stem from another session. For this
// session it does not count as driver.ErrBadConn.
type foreignError struct{ error }

func (e foreignError) Is(target error) bool {
	return target != driver.ErrBadConn && errors.Is(e.error, target)
}

func (e foreignError) As(target any) bool { return errors.As(e.error, target) }
