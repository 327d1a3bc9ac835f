package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestFallsBackFrom(t *testing.T) {
	t.Parallel()
	routes := func(mode pq.SSLMode) []transport.Route {
		list, err := (&transport.Dialer{}).Routes(bounded(t), transport.Endpoint{Host: "10.0.0.1", Port: 1},
			mustPolicy(t, pq.Config{SSLMode: mode}, nil))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	prefer, allow := routes("prefer"), routes("allow")
	phase := func(p transport.Phase, err error) error {
		return fmt.Errorf("wrapped: %w", &transport.Error{Phase: p, Err: err})
	}
	plain, secure := &transport.Conn{}, &transport.Conn{Encrypted: true}
	broken := errors.New("broken")
	rejected := &pq.Error{Code: "28000"}
	for name, tt := range map[string]struct {
		r    transport.Route
		prev *transport.Conn
		err  error
		want bool
	}{
		"first route":                 {prefer[0], nil, phase(transport.PhaseHandshake, broken), false},
		"handshake":                   {prefer[1], nil, phase(transport.PhaseHandshake, broken), true},
		"handshake, context":          {prefer[1], nil, phase(transport.PhaseHandshake, context.Canceled), false},
		"handshake, deadline":         {prefer[1], nil, phase(transport.PhaseHandshake, context.DeadlineExceeded), false},
		"request":                     {prefer[1], nil, phase(transport.PhaseRequest, broken), false},
		"dial":                        {allow[1], nil, phase(transport.PhaseDial, broken), false},
		"something else":              {prefer[1], nil, broken, false},
		"nothing":                     {prefer[1], nil, nil, false},
		"prefer, rejected under TLS":  {prefer[1], secure, rejected, true},
		"prefer, cut off under TLS":   {prefer[1], secure, io.EOF, true},
		"prefer, rejected without":    {prefer[1], plain, rejected, false},
		"allow, rejected without TLS": {allow[1], plain, rejected, true},
		"allow, wrong password":       {allow[1], plain, fmt.Errorf("wrapped: %w", &pq.Error{Code: "28P01"}), false},
		"allow, context":              {allow[1], plain, context.DeadlineExceeded, false},
	} {
		if got := tt.r.FallsBackFrom(tt.prev, tt.err); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

// TestRouteAgain is K12: it connects by the route that a connection has agreed on, as a
// cancel request does.
func TestRouteAgain(t *testing.T) {
	t.Parallel()
	secure := serve(t, speakTLS(serverConfig(certs().good), nil))
	none := serve(t, hold("N"))
	p := mustPolicy(t, pq.Config{SSLMode: "prefer"}, nil)
	for _, e := range []transport.Endpoint{secure, none} {
		first := open(t, e, p)
		again, err := first.Route.Connect(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		checkConn(t, again)
		if again.Encrypted != first.Encrypted || again.Route != first.Route ||
			again.RemoteAddr().String() != first.RemoteAddr().String() {
			t.Errorf("first %+v, then %+v", first.Route, again.Route)
		}
	}
}

// TestRouteKeepsTLS is K12: it checks that what was agreed is not given up the next time.
func TestRouteKeepsTLS(t *testing.T) {
	t.Parallel()
	good := speakTLS(serverConfig(certs().good), nil)
	first := make(chan struct{}, 1)
	first <- struct{}{}
	e := serve(t, func(conn net.Conn) {
		select {
		case <-first:
			good(conn)
		default:
			hold("N")(conn)
		}
	})
	conn := open(t, e, mustPolicy(t, pq.Config{SSLMode: "prefer"}, nil))
	again, err := conn.Route.Connect(bounded(t))
	if !errors.Is(err, pq.ErrSSLNotSupported) {
		t.Errorf("got %v, %v", again, err)
	}
}

func TestRouteString(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]transport.Endpoint{
		"one.test:5432 (127.0.0.1)": {Host: "one.test", Port: 5432},
		"db:5432 (127.0.0.1)":       {Host: "db", Hostaddr: loopback, Port: 5432},
		"127.0.0.1:5432":            {Hostaddr: loopback, Port: 5432},
		"10.0.0.1:5432":             {Host: "10.0.0.1", Port: 5432},
		"/tmp/.s.PGSQL.5432":        {Host: "/tmp", Port: 5432},
	} {
		routes, err := (&transport.Dialer{}).Routes(bounded(t), e, plainPolicy(t))
		if err != nil || routes[0].String() != want {
			t.Errorf("got %v, %v, want %s", routes, err, want)
		}
	}
}

// recorder is a socket that notes what is done with it.
type recorder struct {
	net.Conn
	writes, closes atomic.Int64
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes.Add(1)
	return r.Conn.Write(b)
}

func (r *recorder) Close() error {
	r.closes.Add(1)
	return r.Conn.Close()
}

// recording is a dialer whose sockets are sent to opened, which has room.
func recording(opened chan<- *recorder) *transport.Dialer {
	return &transport.Dialer{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		r := &recorder{Conn: conn}
		opened <- r
		return r, err
	}}
}

// TestFailureCloses checks that no failure leaves a socket open.
func TestFailureCloses(t *testing.T) {
	t.Parallel()
	pki := certs()
	without := serverConfig(pki.good)
	without.NextProtos = nil
	for name, tt := range map[string]struct {
		handle func(net.Conn)
		cfg    pq.Config
	}{
		"N":         {hold("N"), pq.Config{SSLMode: "require"}},
		"E":         {answer("Eno"), pq.Config{SSLMode: "require"}},
		"end":       {answer(""), pq.Config{SSLMode: "require"}},
		"untrusted": {speakTLS(serverConfig(pki.other), nil), pq.Config{SSLMode: "verify-ca", SSLRootCert: write(t, pki.ca.certPEM())}},
		"no root":   {speakTLS(serverConfig(pki.good), nil), pq.Config{SSLMode: "verify-ca", SSLRootCert: absent(t)}},
		"no ALPN":   {speakDirect(without, nil), pq.Config{SSLMode: "require", SSLNegotiation: "direct"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened := make(chan *recorder, 1)
			if _, err := connect(bounded(t), recording(opened), serve(t, tt.handle), mustPolicy(t, tt.cfg, nil)); err == nil {
				t.Fatal("connected")
			}
			if r := <-opened; r.closes.Load() == 0 {
				t.Error("the socket is open")
			}
		})
	}
}

// TestAbort checks that it says nothing to the peer, which may not read.
func TestAbort(t *testing.T) {
	t.Parallel()
	opened := make(chan *recorder, 1)
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	conn, err := connect(bounded(t), recording(opened), e, mustPolicy(t, pq.Config{SSLMode: "require"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	socket := <-opened
	before := socket.writes.Load()
	read := make(chan error, 1)
	go func() { // until Abort
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	if err := conn.Abort(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := conn.Abort(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("again: %v", err)
	}
	if after := socket.writes.Load(); after != before {
		t.Error("something was sent")
	}
}

func TestEncryptionString(t *testing.T) {
	t.Parallel()
	for e, want := range map[transport.Encryption]string{
		transport.Plain: "plain", transport.Opportunistic: "opportunistic", transport.Required: "required", 7: "Encryption(7)",
	} {
		if e.String() != want {
			t.Errorf("got %s", e)
		}
	}
}
