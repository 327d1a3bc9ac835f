package pgnotify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// connect tries the hosts until one gives a session, as libpq does: in order or
// shuffled, and for prefer-standby first for a standby, then for any server. It stops
// when ctx ends or a server rejects the session for good.
func (c *Connector) connect(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, withCause(ctx, err)
	}
	passes, err := sessionAttrs(c.config.TargetSessionAttrs)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, attrs := range passes {
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

// connectError joins the errors of all hosts. It drops errors that the second pass of
// prefer-standby only repeats.
func connectError(failed []error) error {
	var different []error
	for _, err := range failed {
		same := func(other error) bool { return other.Error() == err.Error() }
		if !slices.ContainsFunc(different, same) {
			different = append(different, err)
		}
	}
	if len(different) == 1 {
		if final, ok := different[0].(*finalError); ok {
			return final.err
		}
		return different[0]
	}
	return fmt.Errorf("pgnotify: no host could be connected to:\n%w", errors.Join(different...))
}

// hosts returns the hosts in the order in which to try them.
func (c *Connector) hosts() []transport.Endpoint {
	hosts := transport.Endpoints(&c.config.Config)
	if c.balances() {
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	return hosts
}

// balances reports whether hosts, and the addresses of each, are shuffled.
func (c *Connector) balances() bool {
	return c.config.LoadBalanceHosts == pq.LoadBalanceHostsRandom
}

// connectHost tries one host, address by address. Each address has its own
// connect_timeout, as in libpq; the name look-up counts toward that of the first.
func (c *Connector) connectHost(ctx context.Context, host transport.Endpoint, attrs pq.TargetSessionAttrs) (*session, error) {
	a, err := c.prepareAttempt(ctx, host, attrs)
	if err != nil {
		return nil, err
	}
	bounded, cancel := a.bound(ctx)
	defer func() { cancel() }()
	routes, err := a.dialer.Routes(bounded, a.host, a.policy)
	if err != nil {
		return nil, a.explain(bounded, a.host, err)
	}
	var failed []error
	for len(routes) > 0 {
		n := sameAddress(routes)
		s, err := a.connectAddress(bounded, routes[:n])
		if err == nil {
			return s, nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil || isFinal(err) {
			break
		}
		routes = routes[n:]
		cancel()
		bounded, cancel = a.bound(ctx)
	}
	return nil, attemptError(failed)
}

// attemptError joins the errors of one host. If the last attempt ended with the server's
// refusal, the error is a *pq.Error as in lib/pq, whose type programs assert; its message
// tells of the attempts before, too.
func attemptError(failed []error) error {
	before, last := failed[:len(failed)-1], failed[len(failed)-1]
	if final, ok := last.(*finalError); ok {
		return &finalError{attemptError(append(slices.Clone(before), final.err))}
	}
	server, ok := last.(*pq.Error)
	switch {
	case len(before) == 0:
		return last
	case !ok:
		return errors.Join(failed...)
	}
	var message strings.Builder
	for _, err := range before {
		message.WriteString(strings.TrimPrefix(withoutPackage(err), "pq: ") + "\n")
	}
	return withMessage(server, message.String()+server.Message)
}

func withMessage(server *pq.Error, message string) *pq.Error {
	changed := *server
	changed.Message = message
	return &changed
}

// sameAddress returns how many of the first routes lead to the same address.
func sameAddress(routes []transport.Route) int {
	n := 1
	for n < len(routes) && routes[n].Fallback {
		n++
	}
	return n
}

// An attempt holds what one host is tried with.
type attempt struct {
	c      *Connector
	config *Config // for this attempt; BeforeConnect may have changed it
	host   transport.Endpoint
	attrs  pq.TargetSessionAttrs
	policy *transport.Policy
	dialer *transport.Dialer
}

// prepareAttempt calls BeforeConnect.
func (c *Connector) prepareAttempt(ctx context.Context, host transport.Endpoint, attrs pq.TargetSessionAttrs) (*attempt, error) {
	a := &attempt{c: c, config: c.config, host: host, attrs: attrs, policy: c.policy, dialer: c.dialer}
	if c.config.BeforeConnect == nil {
		return a, nil
	}
	a.config = c.config.Clone()
	a.config.Host, a.config.Hostaddr, a.config.Port, a.config.Multi = host.Host, host.Hostaddr, host.Port, nil
	if err := a.beforeConnect(ctx); err != nil {
		return nil, &finalError{&opError{fmt.Sprintf("BeforeConnect for %v", host), err}}
	}
	if err := a.config.check(); err != nil {
		return nil, &finalError{&opError{fmt.Sprintf("BeforeConnect for %v", host), err}}
	}
	policy, err := transport.NewPolicy(&a.config.Config, a.config.TLSConfig)
	if err != nil {
		return nil, &finalError{err}
	}
	a.policy = policy
	a.host = transport.Endpoints(&a.config.Config)[0]
	dialer := *c.dialer
	dialer.DialContext = a.config.DialContext
	a.dialer = &dialer
	return a, nil
}

// beforeConnect calls Config.BeforeConnect within a connect_timeout of its own.
func (a *attempt) beforeConnect(ctx context.Context) error {
	ctx, cancel := a.bound(ctx)
	defer cancel()
	if err := a.c.config.BeforeConnect(ctx, a.config); err != nil {
		return withCause(ctx, err)
	}
	return nil
}

// bound applies connect_timeout to ctx.
func (a *attempt) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	t := a.config.ConnectTimeout
	if t <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, t, fmt.Errorf("connect_timeout of %v expired", t))
}

// connectAddress tries one address, with the fallbacks of sslmode if they may help. The
// last attempt decides whether the error is final.
func (a *attempt) connectAddress(ctx context.Context, routes []transport.Route) (*session, error) {
	var (
		link   *transport.Conn // of the previous route, if it connected
		last   error
		failed []error
	)
	for i, route := range routes {
		if i > 0 && (isKindError(last) || !route.FallsBackFrom(link, last)) {
			break
		}
		var s *session
		if s, link, last = a.start(ctx, route); last == nil {
			return s, nil
		}
		failed = append(failed, a.explain(ctx, route, last))
	}
	err := attemptError(failed)
	if isRejection(last) {
		err = &finalError{err}
	}
	return nil, err
}

// start connects by one route and has lib/pq start a session on the connection, which
// it returns even if lib/pq fails.
func (a *attempt) start(ctx context.Context, route transport.Route) (*session, *transport.Conn, error) {
	link, err := route.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := newSession(a.c, link)
	stop := context.AfterFunc(ctx, func() { _ = link.Abort() })
	err = a.startLibpq(s)
	if !stop() {
		err = ctx.Err()
	} else if err != nil {
		err = s.startError(err)
	}
	s.startupOver()
	if err != nil {
		defer s.freeTurn()
		_ = s.wire.Close()
		s.endLease(true)
		return nil, link, err
	}
	s.startWatch()
	s.freeTurn() // handlers may use the session
	s.flush(ctx, 0)
	return s, link, nil
}

// startLibpq runs lib/pq's start-up, authentication and parameters, and then checks
// target_session_attrs. It leaves lib/pq no timeout, no TLS and no other host to deal
// with.
func (a *attempt) startLibpq(s *session) (err error) {
	defer func() {
		if p := recover(); p != nil {
			_ = s.caught(p)
			err = s.wire.Loss().Err
		}
	}()
	config := a.config.Config // lib/pq copies what it changes
	config.Host, config.Hostaddr, config.Port, config.Multi = a.host.Host, a.host.Hostaddr, a.host.Port, nil
	config.SSLMode = pq.SSLModeDisable
	config.SSLNegotiation = ""
	config.ConnectTimeout = 0
	config.TargetSessionAttrs = pq.TargetSessionAttrsAny
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return err
	}
	connector.Dialer(&onceDialer{conn: s.wire})
	conn, err := connector.Connect(background)
	if err != nil {
		return err
	}
	s.pq = conn.(libpqConn)
	if err := s.checkAttrs(a.attrs); err != nil {
		_ = s.pq.Close() // says goodbye to the server
		return err
	}
	return nil
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

// startError returns the error of a start-up that lib/pq gave up.
func (s *session) startError(err error) error {
	loss := s.wire.Loss()
	switch {
	case loss == nil || loss.Local && loss.Fatal == nil:
		return s.startAnswer(err)
	case loss.Fatal != nil:
		return s.startAnswer(serverError(loss.Fatal))
	case errors.Is(loss.Err, io.EOF):
		return errors.New("the server closed the connection during start-up")
	}
	return loss.Err
}

// maxStartError bounds the text of lib/pq's own errors during start-up, in characters.
// Some quote what the server has sent, at any length.
const maxStartError = 500

// startAnswer marks the error of a server that may be anybody.
func (s *session) startAnswer(err error) error {
	server, ok := err.(*pq.Error)
	if !ok {
		if text := transport.Printable([]byte(err.Error()), maxStartError); text != err.Error() {
			return fmt.Errorf("the unverified server says something that lib/pq cannot take: %s", text)
		}
		return err
	}
	if s.link.Verified || s.wire.Authenticated() {
		return server
	}
	return withMessage(server, "the unverified server says: "+server.Message)
}

// explain adds where an attempt failed, and the timeout if that was the reason. The
// server's refusal remains a *pq.Error, so its message takes what is added.
func (a *attempt) explain(ctx context.Context, place fmt.Stringer, err error) error {
	var unreached *transport.Error
	if errors.As(err, &unreached) { // names the place itself
		return &transport.Error{Phase: unreached.Phase, Server: unreached.Server, Err: withCause(ctx, unreached.Err)}
	}
	what := fmt.Sprintf("connect to %v as user %q to database %q: ", place, a.config.User, cmp.Or(a.config.Database, a.config.User))
	if server, ok := err.(*pq.Error); ok {
		return withMessage(server, what+server.Message+hint(a.config, server))
	}
	return fmt.Errorf("pgnotify: %s%w", what, withCause(ctx, err))
}

// withCause adds why ctx has ended to an error that reports its end.
func withCause(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // package net may have been faster than the timer that sets the cause
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// finalError ends Connect even if there are hosts left.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func isFinal(err error) bool {
	var final *finalError
	return errors.As(err, &final)
}

// isRejection reports whether the server was reached and rejected the session for a
// reason other than being overloaded, not ready or about to end. Other hosts would then
// reject it too.
func isRejection(err error) bool {
	var server *pq.Error
	if !errors.As(err, &server) || isKindError(err) {
		return false
	}
	switch server.Code {
	case "57P01", "57P02", "57P03":
		return false
	}
	return server.Code.Class() != "53"
}
