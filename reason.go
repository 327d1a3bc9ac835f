package pgnotify

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify/internal/transport"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// A DisconnectReason says why a session was lost.
type DisconnectReason int

// The reasons, with the SQLSTATE of the server's last message if there is one
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	// PeerClosed: the connection was closed without a reason.
	PeerClosed DisconnectReason = iota
	// AdminShutdown: 57P01, the server is stopping or pg_terminate_backend was called.
	AdminShutdown
	// CrashShutdown: 57P02, another session's process crashed.
	CrashShutdown
	// IdleTimeout: 57P05, 25P03 or 25P04, a timeout set on the server.
	IdleTimeout
	// Reset: the connection was reset.
	Reset
	// NetworkTimeout: keepalive or TCP_USER_TIMEOUT gave up on the peer, or a
	// Listener's heartbeat did.
	NetworkTimeout
	// CancelTimeout: a cancelled request did not end within Config.CancelTimeout.
	CancelTimeout
	// ProtocolError: what was received is not PostgreSQL's protocol, or lib/pq could
	// not read it.
	ProtocolError
	// ClosedLocally: the program closed the session.
	ClosedLocally
	// ServerError: another FATAL error of the server; see Err.
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

func lossReason(loss *wire.Loss) DisconnectReason {
	var (
		frame *wire.FrameError
		libpq *libpqError
	)
	switch {
	case loss.Fatal != nil:
		return fatalReason(loss.Fatal.Code)
	case errors.Is(loss.Err, errCancelTimeout):
		return CancelTimeout
	case errors.Is(loss.Err, errSilent):
		return NetworkTimeout
	case errors.As(loss.Err, &frame), errors.As(loss.Err, &libpq):
		return ProtocolError
	case loss.Local, errors.Is(loss.Err, net.ErrClosed):
		return ClosedLocally
	case errors.Is(loss.Err, io.EOF):
		return PeerClosed
	case transport.IsSilence(loss.Err):
		return NetworkTimeout
	case transport.IsSystemError(loss.Err):
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
