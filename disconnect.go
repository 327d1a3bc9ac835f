package pgnotify

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A DisconnectReason says why a session was lost.
type DisconnectReason int

// The reasons, with the SQLSTATE of the server's last message where it sends
// one (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	// PeerClosed: the connection ended without a reason.
	PeerClosed DisconnectReason = iota
	// AdminShutdown: 57P01, the server stops or pg_terminate_backend was called.
	AdminShutdown
	// CrashShutdown: 57P02, another session's process crashed.
	CrashShutdown
	// IdleTimeout: 57P05, 25P03 or 25P04, a timeout that is set on the server.
	IdleTimeout
	// Reset: the connection was reset.
	Reset
	// NetworkTimeout: keepalive or TCP_USER_TIMEOUT gave the peer up.
	NetworkTimeout
	// CancelTimeout: a cancelled request did not end within Config.CancelTimeout.
	CancelTimeout
	// ProtocolError: what came was not PostgreSQL's protocol.
	ProtocolError
	// ClosedLocally: the program closed the session.
	ClosedLocally
	// ServerError: another FATAL error of the server, told by Err.
	ServerError
)

var reasonTexts = [...]string{
	PeerClosed:     "the server closed the connection",
	AdminShutdown:  "terminated by an administrator",
	CrashShutdown:  "the server crashed",
	IdleTimeout:    "a timeout of the server ended the session",
	Reset:          "the connection was reset",
	NetworkTimeout: "the network is silent",
	CancelTimeout:  "the cancelled statement did not end in time",
	ProtocolError:  "protocol error",
	ClosedLocally:  "closed by this program",
	ServerError:    "the server ended the session",
}

// String returns the reason in words.
func (r DisconnectReason) String() string {
	if r < 0 || int(r) >= len(reasonTexts) {
		return fmt.Sprintf("DisconnectReason(%d)", int(r))
	}
	return reasonTexts[r]
}

// A DisconnectError says that the session is lost, and why.
type DisconnectError struct {
	Reason DisconnectReason

	// Err is the server's *[pq.Error] where it gave a reason, or else the
	// system's error.
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
	if loss.Fatal != nil {
		e.Err = serverError(loss.Fatal)
	}
	return e
}

func lossReason(loss *wire.Loss) DisconnectReason {
	var (
		frame *wire.FrameError
		libpq *libpqError
		errno syscall.Errno
	)
	switch {
	case loss.Fatal != nil:
		return fatalReason(loss.Fatal.Code)
	case errors.Is(loss.Err, errCancelTimeout):
		return CancelTimeout
	case errors.As(loss.Err, &frame), errors.As(loss.Err, &libpq):
		return ProtocolError
	case loss.Local, errors.Is(loss.Err, net.ErrClosed):
		return ClosedLocally
	case errors.Is(loss.Err, io.EOF):
		return PeerClosed
	case errors.Is(loss.Err, syscall.ETIMEDOUT), errors.Is(loss.Err, syscall.EHOSTUNREACH),
		errors.Is(loss.Err, syscall.ENETUNREACH), errors.Is(loss.Err, os.ErrDeadlineExceeded):
		return NetworkTimeout
	case errors.As(loss.Err, &errno):
		return Reset
	}
	return PeerClosed
}

func fatalReason(code pqerror.Code) DisconnectReason {
	switch code {
	case "57P01":
		return AdminShutdown
	case "57P02":
		return CrashShutdown
	case "57P05", "25P03", "25P04":
		return IdleTimeout
	}
	return ServerError
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
