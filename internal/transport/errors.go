package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/lib/pq"
)

// Phase is how far an attempt to connect had got.
type Phase int

const (
	PhaseLookup    Phase = iota + 1 // the name is being resolved
	PhaseDial                       // the socket is being opened
	PhaseRequest                    // the server is being asked for TLS
	PhaseHandshake                  // TLS is being set up, from reading the certificate files on
)

// Error is the failure of [Dialer.Routes] or [Route.Connect]. Its text names
// the server and holds no secret. Err is the cause; where the context ended the
// attempt, it is the context's error.
type Error struct {
	Phase  Phase
	Server string // as Endpoint.String has it, in PhaseDial with the address found
	Err    error
}

// Error names the phase, the server and the cause.
func (e *Error) Error() string {
	switch e.Phase {
	case PhaseLookup:
		var dns *net.DNSError
		if errors.As(e.Err, &dns) { // "lookup db.example: no such host"
			return fmt.Sprintf("pgnotify: connect to %s: %v", e.Server, e.Err)
		}
		return fmt.Sprintf("pgnotify: connect to %s: name look-up: %v", e.Server, e.Err)
	case PhaseDial:
		return fmt.Sprintf("pgnotify: connect to %s: %v", e.Server, e.Err)
	default:
		return fmt.Sprintf("pgnotify: TLS with %s: %v", e.Server, e.Err)
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// newError makes an [Error] of cause, or of ctx's error if ctx has ended: what the
// system then reports (a timeout, a closed socket) only echoes it.
func newError(ctx context.Context, phase Phase, server string, cause error) *Error {
	if err := ended(ctx); err != nil {
		cause = err
	}
	return &Error{Phase: phase, Server: server, Err: cause}
}

// ended returns ctx's error. It does so even between the deadline and the moment when
// the context's own timer fires: package net works with the deadline itself and is
// often the faster of the two.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// noTLSError says that the server answered N although TLS was required. It is
// [pq.ErrSSLNotSupported].
type noTLSError struct{ mode pq.SSLMode }

func (e noTLSError) Error() string {
	return fmt.Sprintf("the server does not support TLS, but sslmode=%s requires it here", e.mode)
}

func (e noTLSError) Unwrap() error { return pq.ErrSSLNotSupported }
