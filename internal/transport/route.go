package transport

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/lib/pq"
)

// Encryption says what a route does about TLS.
type Encryption uint8

const (
	// Plain never speaks TLS.
	Plain Encryption = iota
	// Opportunistic asks for TLS, and stays on the same connection without it
	// if the server answers that it has none.
	Opportunistic
	// Required asks for TLS and fails without it.
	Required
)

// String returns the name in lower case.
func (e Encryption) String() string {
	switch e {
	case Plain:
		return "plain"
	case Opportunistic:
		return "opportunistic"
	case Required:
		return "required"
	}
	return fmt.Sprintf("Encryption(%d)", int(e))
}

// Route is one fully determined way to a server. It is a value, made by
// [Dialer.Routes], and safe for concurrent use. A cancel request uses the route in the
// session's [Conn], so that it reaches the same server under the same TLS.
type Route struct {
	Address    string // for Network; resolved, unless a DialContext does that
	Encryption Encryption

	// Fallback marks the second encryption of an address under sslmode=allow and
	// prefer. It is tried only if FallsBackFrom says so.
	Fallback bool

	dialer   *Dialer
	policy   *Policy
	endpoint Endpoint
}

// Network returns "tcp" or "unix".
func (r Route) Network() string {
	if r.endpoint.Unix() {
		return "unix"
	}
	return "tcp"
}

// String returns the name of r for errors: the endpoint, followed in brackets by the
// address found for its name.
func (r Route) String() string {
	server := r.endpoint.String()
	host, _, err := net.SplitHostPort(r.Address)
	if r.endpoint.Unix() || err != nil || host == r.endpoint.Host || r.Address == server {
		return server
	}
	return server + " (" + host + ")"
}

// Connect dials, asks for TLS and sets it up, as r says. It blocks until that is
// done or ctx ends; then the error satisfies errors.Is(err, ctx.Err()). The
// caller owns the connection. After an error, an [*Error], nothing is open.
//
// Under TLS 1.3 a server that rejects the client's certificate says so only in
// answer to the first bytes that follow, so that error comes out of the first
// Read.
func (r Route) Connect(ctx context.Context) (*Conn, error) {
	socket, err := r.dial(ctx)
	if err != nil {
		return nil, newError(ctx, PhaseDial, r.String(), err)
	}
	conn, err := r.encrypt(ctx, socket)
	if err != nil {
		socket.Close()
		return nil, err
	}
	return conn, nil
}

// dial opens the socket. A DialContext may succeed although ctx has ended.
func (r Route) dial(ctx context.Context) (net.Conn, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	socket, err := r.dialer.dial(ctx, r.Network(), r.Address)
	if err != nil {
		return nil, err
	}
	if err := ended(ctx); err != nil {
		socket.Close()
		return nil, err
	}
	return socket, nil
}

// encrypt settles TLS on socket. After an error the caller must still close socket.
func (r Route) encrypt(ctx context.Context, socket net.Conn) (*Conn, error) {
	if r.Encryption == Plain {
		return r.plain(socket), nil
	}
	if !r.policy.direct {
		ok, err := requestTLS(ctx, socket)
		switch {
		case err != nil:
			return nil, newError(ctx, PhaseRequest, r.endpoint.String(), err)
		case !ok && r.Encryption == Opportunistic:
			return r.plain(socket), nil
		case !ok:
			return nil, newError(ctx, PhaseRequest, r.endpoint.String(), noTLSError{r.policy.mode})
		}
	}
	records := &recordSocket{Conn: socket}
	secure, err := r.policy.handshake(ctx, records, r.endpoint.tlsName())
	if err != nil {
		return nil, newError(ctx, PhaseHandshake, r.endpoint.String(), err)
	}
	return &Conn{Conn: secure, Socket: socket, Route: r.agreed(Required), Encrypted: true,
		Verified: r.policy.verifies(), records: records}, nil
}

func (r Route) plain(socket net.Conn) *Conn {
	return &Conn{Conn: socket, Socket: socket, Route: r.agreed(Plain)}
}

// agreed returns the route that leads to the same outcome without negotiation.
func (r Route) agreed(e Encryption) Route {
	r.Encryption, r.Fallback = e, false
	return r
}

// FallsBackFrom reports whether r is to be tried, as libpq would, after the attempt on
// the route before it failed with err. prev is nil if Connect failed: then r is tried
// after a failed TLS handshake, but not if the server could not be reached or did not
// answer, or if the context ended. Otherwise prev was open, and the server rejected the
// session during its start-up: then r is tried if it would make another choice about
// TLS, unless the password was wrong (28P01). FallsBackFrom is false for every route
// that is not a Fallback.
func (r Route) FallsBackFrom(prev *Conn, err error) bool {
	if !r.Fallback || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if prev == nil {
		var failed *Error
		return errors.As(err, &failed) && failed.Phase == PhaseHandshake
	}
	var rejected *pq.Error
	if errors.As(err, &rejected) && rejected.Code == "28P01" {
		return false
	}
	return prev.Encrypted != (r.Encryption == Required)
}
