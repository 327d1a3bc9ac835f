package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A tunnel forwards to the server as the channels of x/crypto/ssh do. Its connections
// have no deadlines. Once it is silent, Close ends neither Read nor Write, and new
// connections wait, whatever their context. All of that lasts until the tunnel ends.
type tunnel struct {
	dialSilent bool // also new connections are silent
	blocks     bool // a silent connection does not take what is written
	silent     chan struct{}
	ended      chan struct{}

	under atomic.Int32 // calls of Read, Write and dial

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// newTunnel returns a tunnel that ends with the test, whose calls then end.
func newTunnel(t *testing.T, blocks bool) *tunnel {
	tn := &tunnel{dialSilent: true, blocks: blocks, silent: make(chan struct{}), ended: make(chan struct{})}
	t.Cleanup(func() { // after those of pools and Listeners, which end nothing that is stuck
		tn.end()
		until(t, "what was left behind has ended", func() bool { return tn.under.Load() == 0 })
	})
	return tn
}

// silence makes the tunnel silent. Which connections are, is decided now.
func (tn *tunnel) silence() { close(tn.silent) }

// end ends a silent tunnel.
func (tn *tunnel) end() {
	close(tn.ended)
	tn.mu.Lock()
	defer tn.mu.Unlock()
	for _, conn := range tn.conns {
		conn.Close()
	}
}

func (tn *tunnel) isSilent() bool {
	select {
	case <-tn.silent:
		return true
	default:
		return false
	}
}

// stick waits for the end of the tunnel.
func (tn *tunnel) stick() error {
	<-tn.ended
	return io.EOF
}

func (tn *tunnel) dial(_ context.Context, network, address string) (net.Conn, error) {
	tn.under.Add(1)
	defer tn.under.Add(-1)
	late := tn.isSilent()
	if late && tn.dialSilent {
		return nil, tn.stick()
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	tn.mu.Lock()
	defer tn.mu.Unlock()
	tn.conns = append(tn.conns, conn)
	return &tunnelConn{Conn: conn, tunnel: tn, good: late}, nil
}

func (tn *tunnel) option(c *pgnotify.Config) { c.DialContext = tn.dial }

type tunnelConn struct {
	net.Conn
	tunnel *tunnel
	good   bool // it does not fall silent
}

func (c *tunnelConn) silent() bool { return !c.good && c.tunnel.isSilent() }

func (c *tunnelConn) Read(p []byte) (int, error) {
	c.tunnel.under.Add(1)
	defer c.tunnel.under.Add(-1)
	n, err := c.Conn.Read(p)
	if c.silent() {
		return 0, c.tunnel.stick()
	}
	return n, err
}

func (c *tunnelConn) Write(p []byte) (int, error) {
	c.tunnel.under.Add(1)
	defer c.tunnel.under.Add(-1)
	if !c.silent() {
		return c.Conn.Write(p)
	}
	if c.tunnel.blocks {
		return 0, c.tunnel.stick()
	}
	return len(p), nil
}

// Close ends nothing that is under way once the tunnel is silent.
func (c *tunnelConn) Close() error {
	if c.silent() {
		return nil
	}
	return c.Conn.Close()
}

var errNoDeadline = errors.New("deadlines are not supported")

func (c *tunnelConn) SetDeadline(time.Time) error      { return errNoDeadline }
func (c *tunnelConn) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (c *tunnelConn) SetWriteDeadline(time.Time) error { return errNoDeadline }

// eachTunnel runs a test over each way to the server, through a tunnel.
func eachTunnel(t *testing.T, f func(t *testing.T, m mode, tn *tunnel)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		for _, blocks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/blocks=%v", m.name, blocks), func(t *testing.T) {
				t.Parallel()
				f(t, m, newTunnel(t, blocks))
			})
		}
	}
}

// W7, K9: when a tunnel without deadlines falls silent, each call returns by its context
// or by CancelTimeout, although Close ends nothing in the tunnel and its dialer knows no
// contexts.
func TestEverythingEndsInASilentTunnel(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			for _, blocks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/active=%v/blocks=%v", m.name, active, blocks), func(t *testing.T) {
					t.Parallel()
					together(t, swallowedRequests, func(t *testing.T, q swallowed) {
						tn := newTunnel(t, blocks)
						q.run(t, m, active, tn.dial, tn.silence)
					})
				})
			}
		}
	}
}

// W7: what a silent tunnel keeps is at most a Read and a Write of each lost session, and
// a few calls of a dialer that ignores contexts; it ends when the tunnel does.
func TestWhatASilentTunnelKeepsIsBounded(t *testing.T) {
	eachTunnel(t, func(t *testing.T, m mode, tn *tunnel) {
		const sessions = 5
		db := open(t, m.dsn, tn.option, cancelTimeout(50*time.Millisecond))
		all := make([]*session, sessions)
		for i := range all {
			all[i] = take(t, db)
			if i%2 == 0 {
				all[i].pc.Activate()
			}
		}
		server := open(t, dsn(t))
		for _, s := range all {
			pid := s.pc.PID()
			t.Cleanup(func() { mustExec(t, server, "select pg_terminate_backend($1)", pid) })
		}
		tn.silence()
		for _, s := range all {
			ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
			if err := s.PingContext(ctx); !errors.Is(err, context.DeadlineExceeded) && !pgnotify.IsDisconnect(err) {
				t.Errorf("Ping: %v", err)
			}
			cancel()
			s.Close()
		}
		if kept := tn.under.Load(); kept > 3*sessions {
			t.Errorf("%d sessions left %d calls behind", sessions, kept)
		}
		for range 200 {
			ctx, cancel := context.WithTimeout(testContext(t), time.Millisecond)
			if err := db.PingContext(ctx); err == nil {
				t.Error("connected")
			}
			cancel()
		}
		until(t, "few calls are left behind", func() bool { return tn.under.Load() <= 3*sessions+110 })
	})
}

// W7: over a healthy tunnel Timeout(0) returns, with what is pending.
func TestPollOverATunnel(t *testing.T) {
	eachTunnel(t, func(t *testing.T, m mode, tn *tunnel) {
		s := take(t, open(t, m.dsn, tn.option))
		channel := uniqueName("a")
		s.listen(t, channel)
		mustExec(t, s, "notify "+channel+", 'a'; notify "+channel+", 'b'")
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)), "a", "b")
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)))
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(10*time.Millisecond)))
		mustExec(t, s, "notify "+channel+", 'c'")
		s.wantNext(t, "c")
	})
}

// W7: results and COPY of all sizes pass through a tunnel as they are.
func TestBulkOverATunnel(t *testing.T) {
	eachTunnel(t, func(t *testing.T, m mode, tn *tunnel) {
		s := take(t, open(t, m.dsn, tn.option))
		for _, size := range []int{1, 4096, 1 << 16, 5 << 20} {
			query := fmt.Sprintf("select length($1::text), repeat('x', %d)", size)
			var length int
			var back string
			text := strings.Repeat("a", size)
			if err := s.QueryRowContext(testContext(t), query, text).Scan(&length, &back); err != nil {
				t.Fatal(err)
			}
			if length != size || len(back) != size {
				t.Errorf("%d bytes: %d arrived, %d came back", size, length, len(back))
			}
		}
		if n := queryValue[int](t, s, "select count(*) from (select generate_series(1, 300000)) x"); n != 300000 {
			t.Errorf("%d rows", n)
		}
		rows, err := s.QueryContext(testContext(t), "select i, 'text of row ' || i from generate_series(1, 100000) i")
		if err != nil {
			t.Fatal(err)
		}
		if err := readRows(rows, nil); err != nil {
			t.Error(err)
		}
	})
}

// W7, L1: a Listener notices that its tunnel has fallen silent by its heartbeat, and
// goes on over a new connection.
func TestListenerOverATunnelThatFallsSilent(t *testing.T) {
	eachTunnel(t, func(t *testing.T, m mode, tn *tunnel) {
		tn.dialSilent = false
		server := open(t, dsn(t))
		l, events := listenBy(t, connector(t, m.dsn, tn.option), impatient)
		channel := uniqueName("a")
		sub := subscribe(t, l, channel)
		notify(t, server, channel, "before")
		wantPayload(t, sub, "before")
		pid := events.await(t, pgnotify.ListenerConnected, 1).PID
		t.Cleanup(func() { mustExec(t, server, "select pg_terminate_backend($1)", pid) })
		began := time.Now()
		tn.silence()
		notify(t, server, channel, "during")
		wantLostFor(t, events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.NetworkTimeout)
		wantWithin(t, "noticing", began, 1200*time.Millisecond)
		events.await(t, pgnotify.ListenerConnected, 2)
		notify(t, server, channel, "after")
		wantGap(t, sub, pgnotify.NetworkTimeout)
		wantPayload(t, sub, "after")
	})
}

// W7, L19: a Listener in a silent tunnel closes at once, whatever it is doing.
func TestListenerClosesInASilentTunnel(t *testing.T) {
	eachTunnel(t, func(t *testing.T, m mode, like *tunnel) {
		server := open(t, dsn(t))
		for name, prepare := range map[string]func(*pgnotify.ListenerConfig){
			"idle":         func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 },
			"heartbeat":    func(c *pgnotify.ListenerConfig) { c.Heartbeat, c.HeartbeatTimeout = time.Millisecond, time.Hour },
			"reconnecting": impatient,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				closesAtOnce(t, func() *pgnotify.Listener {
					tn := newTunnel(t, like.blocks)
					l, events := listenBy(t, connector(t, m.dsn, tn.option), prepare)
					subscribe(t, l, "tunnel")
					pid := events.await(t, pgnotify.ListenerConnected, 1).PID
					t.Cleanup(func() { mustExec(t, server, "select pg_terminate_backend($1)", pid) })
					tn.silence()
					if name == "reconnecting" {
						events.await(t, pgnotify.ListenerDisconnected, 1)
						until(t, "it dials", func() bool { return tn.under.Load() > 1 })
					}
					return l
				})
			})
		}
	})
}

// W7, C2: start-up and the TLS handshake in a tunnel that is silent from the start, or
// from the answer to the SSLRequest on, end by the context and by connect_timeout.
func TestConnectThroughASilentTunnel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ mode, words string }{
		{"disable", ""}, {"disable", "R\x00\x00\x00"}, {"require", ""}, {"require", "S"}, {"require", "S\x16\x03\x03\x01"},
	} {
		for _, blocks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%q/blocks=%v", c.mode, c.words, blocks), func(t *testing.T) {
				t.Parallel()
				tn := newTunnel(t, blocks)
				tn.silence()
				peer := func(context.Context, string, string) (net.Conn, error) {
					return &silentPeer{tunnelConn: tunnelConn{tunnel: tn}, words: c.words}, nil
				}
				for _, timeout := range []string{"", " connect_timeout=1"} {
					db := open(t, "host=tunnel user=u sslmode="+c.mode+timeout, func(c *pgnotify.Config) { c.DialContext = peer })
					ctx := testContext(t)
					if timeout == "" {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
						defer cancel()
					}
					began := time.Now()
					if err := recv(t, async(t, func() error { return db.PingContext(ctx) })); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
					if took := time.Since(began); took > 10*time.Second {
						t.Errorf("it took %v", took)
					}
				}
			})
		}
	}
}

// A silentPeer is a silent connection that says some words first. It has no addresses.
type silentPeer struct {
	tunnelConn
	words string
}

func (c *silentPeer) Read(p []byte) (int, error) {
	c.tunnel.under.Add(1)
	defer c.tunnel.under.Add(-1)
	if n := copy(p, c.words); n > 0 {
		c.words = c.words[n:]
		return n, nil
	}
	return 0, c.tunnel.stick()
}

func (c *silentPeer) Write(p []byte) (int, error) { return c.tunnelConn.Write(p) }
func (c *silentPeer) LocalAddr() net.Addr         { return nil }
func (c *silentPeer) RemoteAddr() net.Addr        { return nil }

// W7: DialContext may panic on a goroutine that is not the caller's; the panic is the
// caller's all the same.
func TestDialContextPanics(t *testing.T) {
	t.Parallel()
	c := connector(t, "host=nowhere user=u", func(c *pgnotify.Config) {
		c.DialContext = func(context.Context, string, string) (net.Conn, error) { panic("oh") }
	})
	defer func() {
		if p := recover(); p != "oh" {
			t.Errorf("recovered %v", p)
		}
	}()
	_, err := c.Connect(testContext(t))
	t.Errorf("returned %v", err)
}
