package pgnotify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// connect tries the hosts until one gives a session, as libpq does: in order or
// shuffled; for prefer-standby first for a standby, then for any. It stops when
// ctx has ended and when a server rejects the session for good.
func (c *Connector) connect(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var failed []error
	for _, attrs := range sessionAttrs(c.config.TargetSessionAttrs) {
		for _, host := range c.hosts() {
			s, err := c.connectHost(ctx, host, attrs)
			if err == nil {
				return s, nil
			}
			failed = append(failed, err)
			if ctx.Err() != nil || isFinal(err) {
				return nil, connectError(failed)
			}
		}
	}
	return nil, connectError(failed)
}

func connectError(failed []error) error {
	if len(failed) == 1 {
		return failed[0]
	}
	return fmt.Errorf("pgnotify: no host could be connected to:\n%w", errors.Join(failed...))
}

// sessionAttrs returns what to ask of a host's session, one pass over the hosts
// for each.
func sessionAttrs(attrs pq.TargetSessionAttrs) []pq.TargetSessionAttrs {
	if attrs == pq.TargetSessionAttrsPreferStandby {
		return []pq.TargetSessionAttrs{pq.TargetSessionAttrsStandby, pq.TargetSessionAttrsAny}
	}
	return []pq.TargetSessionAttrs{attrs}
}

// hosts returns the hosts in the order to try.
func (c *Connector) hosts() []transport.Endpoint {
	hosts := transport.Endpoints(&c.config.Config)
	if c.config.LoadBalanceHosts == pq.LoadBalanceHostsRandom {
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	return hosts
}

// connectHost is one attempt: one host, with all its addresses and the
// fallbacks of sslmode, within connect_timeout.
func (c *Connector) connectHost(ctx context.Context, host transport.Endpoint, attrs pq.TargetSessionAttrs) (*session, error) {
	if t := c.config.ConnectTimeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, fmt.Errorf("connect_timeout of %v expired", t))
		defer cancel()
	}
	a, err := c.prepareAttempt(ctx, host, attrs)
	if err != nil {
		return nil, err
	}
	routes, err := c.dialer.Routes(ctx, a.host, a.policy)
	if err != nil {
		return nil, err
	}
	var (
		link   *transport.Conn // of the route before, if it connected
		failed []error
	)
	for _, route := range routes {
		if err != nil && !goesOn(route, link, err) {
			continue
		}
		var s *session
		if s, link, err = a.start(ctx, route); err == nil {
			return s, nil
		}
		failed = append(failed, a.explain(ctx, route, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failed...)
}

// goesOn reports whether route is to be tried after the one before it failed:
// sslmode's fallback where it may help, another address unless the server has
// rejected the session.
func goesOn(route transport.Route, link *transport.Conn, err error) bool {
	if route.Fallback {
		return route.FallsBackFrom(link, err)
	}
	return !isFinal(err)
}

// An attempt is what one host is tried with.
type attempt struct {
	c      *Connector
	config *Config // for this attempt; BeforeConnect may have changed it
	host   transport.Endpoint
	attrs  pq.TargetSessionAttrs
	policy *transport.Policy
}

// prepareAttempt asks BeforeConnect.
func (c *Connector) prepareAttempt(ctx context.Context, host transport.Endpoint, attrs pq.TargetSessionAttrs) (*attempt, error) {
	a := &attempt{c: c, config: c.config, host: host, attrs: attrs, policy: c.policy}
	if c.config.BeforeConnect == nil {
		return a, nil
	}
	a.config = c.config.Clone()
	a.config.Host, a.config.Hostaddr, a.config.Port, a.config.Multi = host.Host, host.Hostaddr, host.Port, nil
	if err := c.config.BeforeConnect(ctx, a.config); err != nil {
		return nil, &finalError{&opError{fmt.Sprintf("BeforeConnect for %v", host), err}}
	}
	policy, err := transport.NewPolicy(&a.config.Config, a.config.TLSConfig)
	if err != nil {
		return nil, &finalError{err}
	}
	a.policy = policy
	a.host = transport.Endpoint{Host: a.config.Host, Hostaddr: a.config.Hostaddr, Port: a.config.Port}
	return a, nil
}

// start connects by one route and has lib/pq start a session on it. The
// connection is returned even if that failed.
func (a *attempt) start(ctx context.Context, route transport.Route) (*session, *transport.Conn, error) {
	link, err := route.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := newSession(a.c.config, link)
	stop := context.AfterFunc(ctx, func() { _ = link.Abort() })
	conn, err := a.startLibpq(s)
	if !stop() {
		err = ctx.Err()
	} else if err != nil {
		err = s.startError(err)
	}
	defer s.turn.Release()
	s.startupOver()
	if err != nil {
		_ = s.wire.Close()
		s.endLease(true)
		return nil, link, err
	}
	s.pq = conn.(libpqConn)
	s.flush(0)
	return s, link, nil
}

// startLibpq runs lib/pq's start-up: authentication, parameters, and the check
// of target_session_attrs. lib/pq gets no timeout, no TLS and no other host to
// look after.
func (a *attempt) startLibpq(s *session) (conn any, err error) {
	defer func() {
		if p := recover(); p != nil {
			_ = s.caught(p)
			conn, err = nil, s.wire.Loss().Err
		}
	}()
	config := a.config.Config.Clone()
	config.Host, config.Hostaddr, config.Port, config.Multi = a.host.Host, a.host.Hostaddr, a.host.Port, nil
	config.SSLMode = pq.SSLModeDisable
	config.SSLNegotiation = ""
	config.ConnectTimeout = 0
	config.TargetSessionAttrs = a.attrs
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, err
	}
	connector.Dialer(&onceDialer{conn: s.wire})
	return connector.Connect(background)
}

// onceDialer gives lib/pq its connection, once.
type onceDialer struct{ conn net.Conn }

func (d *onceDialer) Dial(_, _ string) (net.Conn, error) {
	conn := d.conn
	if conn == nil {
		return nil, errors.New("pgnotify: lib/pq asked for a second connection")
	}
	d.conn = nil
	return conn, nil
}

func (d *onceDialer) DialTimeout(network, address string, _ time.Duration) (net.Conn, error) {
	return d.Dial(network, address)
}

// startError is the error of a start-up that lib/pq gave up.
func (s *session) startError(err error) error {
	loss := s.wire.Loss()
	switch {
	case loss == nil || loss.Local && loss.Fatal == nil:
		return err
	case loss.Fatal != nil:
		return serverError(loss.Fatal)
	case errors.Is(loss.Err, io.EOF):
		return errors.New("the server closed the connection during start-up")
	}
	return loss.Err
}

// finalError ends Connect whatever hosts are left.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// explain says where an attempt failed, and that it was for the time where it
// was. Errors of the transport name the place themselves.
func (a *attempt) explain(ctx context.Context, route transport.Route, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	var unreached *transport.Error
	if errors.As(err, &unreached) {
		return err
	}
	return fmt.Errorf("pgnotify: connect to %v as user %q to database %q: %w", route, a.config.User, a.config.Database, err)
}

// isFinal reports whether other hosts need not be tried: the server was reached
// and rejected the session, other than for being overloaded or not ready.
func isFinal(err error) bool {
	var final *finalError
	if errors.As(err, &final) {
		return true
	}
	var server *pq.Error
	if !errors.As(err, &server) {
		return false
	}
	return server.Code != "57P03" && server.Code.Class() != "53"
}
