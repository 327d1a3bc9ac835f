package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// serve listens on loopback, calls handle for each connection, and when the test
// ends closes them all and waits for the handlers.
func serve(t *testing.T, handle func(net.Conn)) transport.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, handle)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	return transport.Endpoint{Host: "localhost", Hostaddr: addr.Addr(), Port: addr.Port()}
}

func serveOn(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var (
		mu     sync.Mutex // guards open and closed
		open   []net.Conn
		closed bool
		wg     sync.WaitGroup
	)
	wg.Go(func() { // until the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				conn.Close()
			}
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		closed = true
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// readRequest takes the SSLRequest from conn.
func readRequest(conn net.Conn) error {
	var got [8]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return err
	}
	if !bytes.Equal(got[:], sslRequest) {
		return errors.New("not an SSLRequest")
	}
	return nil
}

// answer handles a connection by reading the SSLRequest, sending text, and
// closing.
func answer(text string) func(net.Conn) {
	return func(conn net.Conn) {
		if readRequest(conn) == nil {
			io.WriteString(conn, text)
		}
	}
}

// hold answers and then keeps the connection open, saying nothing.
func hold(text string) func(net.Conn) {
	return func(conn net.Conn) {
		if readRequest(conn) == nil {
			io.WriteString(conn, text)
			io.Copy(io.Discard, conn)
		}
	}
}

// speakTLS agrees to TLS. What is sent on it comes back. A session's state goes
// to seen while that has room; it may be nil.
func speakTLS(cfg *tls.Config, seen chan<- tls.ConnectionState) func(net.Conn) {
	direct := speakDirect(cfg, seen)
	return func(conn net.Conn) {
		if readRequest(conn) != nil {
			return
		}
		io.WriteString(conn, "S")
		direct(conn)
	}
}

// speakDirect expects TLS at once.
func speakDirect(cfg *tls.Config, seen chan<- tls.ConnectionState) func(net.Conn) {
	return func(conn net.Conn) {
		secure := tls.Server(conn, cfg)
		if secure.Handshake() != nil {
			return
		}
		select {
		case seen <- secure.ConnectionState():
		default: // nobody wants to know, or not any more
		}
		io.Copy(secure, secure)
	}
}

// serverConfig is the configuration of a server that presents id.
func serverConfig(id *identity, more ...*identity) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{id.tls(more...)}, NextProtos: []string{"postgresql"}}
}

// bounded is a context for a test that should be done in no time.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustPolicy(t *testing.T, cfg pq.Config, custom *tls.Config) *transport.Policy {
	t.Helper()
	p, err := transport.NewPolicy(&cfg, custom)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// connect goes the routes to e as a session would that the server accepts.
func connect(ctx context.Context, d *transport.Dialer, e transport.Endpoint, p *transport.Policy) (*transport.Conn, error) {
	routes, err := d.Routes(ctx, e, p)
	if err != nil {
		return nil, err
	}
	var last error
	for _, r := range routes {
		if r.Fallback && !r.FallsBackFrom(nil, last) {
			continue
		}
		conn, err := r.Connect(ctx)
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

// open connects, fails the test if it cannot, and closes at its end.
func open(t *testing.T, e transport.Endpoint, p *transport.Policy) *transport.Conn {
	t.Helper()
	conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Abort() })
	return conn
}

// refused connects and fails the test if it can.
func refused(t *testing.T, e transport.Endpoint, p *transport.Policy) error {
	t.Helper()
	conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
	if err == nil {
		conn.Abort()
		t.Fatal("connected")
	}
	return err
}

// echo checks that bytes come back.
func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	var got [4]byte
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "ping" {
		t.Fatalf("read %q, %v", got[:], err)
	}
}

// plainPolicy is that of sslmode=disable.
func plainPolicy(t *testing.T) *transport.Policy {
	return mustPolicy(t, pq.Config{SSLMode: pq.SSLModeDisable}, nil)
}

var loopback = netip.MustParseAddr("127.0.0.1")
