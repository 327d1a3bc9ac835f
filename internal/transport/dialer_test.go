package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

func addresses(routes []transport.Route) (list []string) {
	for _, r := range routes {
		list = append(list, r.Address)
	}
	return list
}

func TestRoutesResolve(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		host string
		want []string // sorted
	}{
		{"one.test", []string{"127.0.0.1:5432"}},
		{"many.test", []string{"127.0.0.1:5432", "127.0.0.2:5432", "[::1]:5432"}},
		{"10.1.2.3", []string{"10.1.2.3:5432"}},
		{"::1", []string{"[::1]:5432"}},
		{"fe80::1%eth0", []string{"[fe80::1%eth0]:5432"}},
	} {
		routes, err := (&transport.Dialer{}).Routes(bounded(t),
			transport.Endpoint{Host: tt.host, Port: 5432}, plainPolicy(t))
		got := addresses(routes)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, %v", tt.host, got, err)
		}
	}
}

// TestRoutesShuffled checks that each address comes first at times, and that
// they stay in order without.
func TestRoutesShuffled(t *testing.T) {
	t.Parallel()
	name := names.Add("127.0.0.1", "127.0.0.2", "127.0.0.3")
	for _, shuffle := range []bool{false, true} {
		first := map[string]int{}
		for range 100 {
			routes, err := (&transport.Dialer{Shuffle: shuffle}).Routes(bounded(t),
				transport.Endpoint{Host: name, Port: 5432}, plainPolicy(t))
			if err != nil || len(routes) != 3 {
				t.Fatalf("%v, %v", routes, err)
			}
			first[routes[0].Address]++
		}
		if shuffle && len(first) != 3 || !shuffle && first["127.0.0.1:5432"] != 100 {
			t.Errorf("shuffle %t: first were %v", shuffle, first)
		}
	}
}

func TestRoutesLookupFails(t *testing.T) {
	t.Parallel()
	for host, text := range map[string]string{
		"nosuch.test": `pgnotify: connect to nosuch.test:5432: lookup nosuch.test`,
		"":            `pgnotify: connect to :5432: name look-up: no host is given`,
	} {
		_, err := (&transport.Dialer{}).Routes(bounded(t), transport.Endpoint{Host: host, Port: 5432}, plainPolicy(t))
		var failed *transport.Error
		if !errors.As(err, &failed) || failed.Phase != transport.PhaseLookup || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("%q: got %v", host, err)
		}
	}
}

func TestRoutesLookupContext(t *testing.T) {
	t.Parallel()
	deaf := transport.Endpoint{Host: names.Deaf(t), Port: 5432}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := (&transport.Dialer{}).Routes(ctx, deaf, plainPolicy(t))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := (&transport.Dialer{}).Routes(ctx, deaf, plainPolicy(t))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRoutesSequence(t *testing.T) {
	t.Parallel()
	tcp := transport.Endpoint{Host: "many.test", Port: 5432}
	for _, tt := range []struct {
		mode pq.SSLMode
		want []transport.Encryption
	}{
		{pq.SSLModeDisable, []transport.Encryption{transport.Plain}},
		{pq.SSLModeAllow, []transport.Encryption{transport.Plain, transport.Required}},
		{pq.SSLModePrefer, []transport.Encryption{transport.Opportunistic, transport.Plain}},
		{"", []transport.Encryption{transport.Opportunistic, transport.Plain}},
		{pq.SSLModeRequire, []transport.Encryption{transport.Required}},
		{pq.SSLModeVerifyCA, []transport.Encryption{transport.Required}},
		{pq.SSLModeVerifyFull, []transport.Encryption{transport.Required}},
	} {
		p := mustPolicy(t, pq.Config{SSLMode: tt.mode}, nil)
		routes, err := (&transport.Dialer{}).Routes(bounded(t), tcp, p)
		if err != nil || len(routes) != 3*len(tt.want) {
			t.Fatalf("%s: %v, %v", tt.mode, routes, err)
		}
		for i, r := range routes {
			first := routes[i-i%len(tt.want)]
			if r.Encryption != tt.want[i%len(tt.want)] || r.Fallback != (i%len(tt.want) > 0) || r.Address != first.Address {
				t.Errorf("%s: route %d is %v, fallback %t, to %s", tt.mode, i, r.Encryption, r.Fallback, r.Address)
			}
		}
		routes, err = (&transport.Dialer{}).Routes(bounded(t), transport.Endpoint{Host: "/tmp", Port: 5432}, p)
		if err != nil || len(routes) != 1 || routes[0].Encryption != transport.Plain || routes[0].Network() != "unix" {
			t.Errorf("%s: unix socket: %v, %v", tt.mode, routes, err)
		}
	}
}

func TestHostaddrIsNotLookedUp(t *testing.T) {
	t.Parallel()
	e := serve(t, func(conn net.Conn) { io.Copy(conn, conn) })
	e.Host = "nosuch.test"
	conn := open(t, e, plainPolicy(t))
	echo(t, conn)
	if want := e.Hostaddr.String(); !strings.HasPrefix(conn.Route.Address, want) {
		t.Errorf("address is %s", conn.Route.Address)
	}
}

func TestDialContext(t *testing.T) {
	t.Parallel()
	e := serve(t, func(conn net.Conn) { io.Copy(conn, conn) })
	target := served(e)
	var asked []string
	d := &transport.Dialer{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = append(asked, network+" "+addr)
		return new(net.Dialer).DialContext(ctx, "tcp", target)
	}}
	for _, e := range []transport.Endpoint{{Host: "far.test", Port: 1}, {Host: "/far", Port: 2}, {Host: "x", Hostaddr: loopback, Port: 3}} {
		conn, err := connect(bounded(t), d, e, plainPolicy(t))
		if err != nil {
			t.Fatal(err)
		}
		echo(t, conn)
		conn.Close()
	}
	if want := []string{"tcp far.test:1", "unix /far/.s.PGSQL.2", "tcp 127.0.0.1:3"}; !slices.Equal(asked, want) {
		t.Errorf("dialled %q", asked)
	}
}

// served returns the address that e is served at.
func served(e transport.Endpoint) string {
	e.Host = ""
	return e.String()
}

func TestDialContextMisbehaves(t *testing.T) {
	t.Parallel()
	e := transport.Endpoint{Host: "far.test", Port: 1}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		d := &transport.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}
		if _, err := connect(bounded(t), d, e, plainPolicy(t)); err == nil {
			t.Error("connected")
		}
	})
	t.Run("late", func(t *testing.T) { // a connection in spite of the context is closed
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		near, far := net.Pipe()
		d := &transport.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
			cancel()
			return near, nil
		}}
		if _, err := connect(ctx, d, e, plainPolicy(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection is open: %v", err)
		}
	})
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]string{"path": t.TempDir(), "abstract": "@pgnotify-" + t.Name()} {
		t.Run(name, func(t *testing.T) {
			e := transport.Endpoint{Host: host, Port: 5433}
			if name == "abstract" && runtime.GOOS != "linux" {
				if runtime.GOOS != "windows" && refused(t, e, plainPolicy(t)) == nil {
					t.Error("no error")
				}
				return
			}
			l, err := net.Listen("unix", e.String())
			if err != nil && runtime.GOOS == "windows" {
				t.Skip(err) // old versions have none
			}
			if err != nil {
				t.Fatal(err)
			}
			serveOn(t, l, func(conn net.Conn) { io.Copy(conn, conn) })
			conn := open(t, e, mustPolicy(t, pq.Config{SSLMode: pq.SSLModeVerifyFull}, nil))
			echo(t, conn)
			if conn.Encrypted || conn.Route.Encryption != transport.Plain || conn.Conn != conn.Socket {
				t.Errorf("route is %+v", conn.Route)
			}
		})
	}
}

func TestDialFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	e := transport.Endpoint{Host: "one.test", Port: addr.Port()}
	err = refused(t, e, plainPolicy(t))
	var failed *transport.Error
	if !errors.As(err, &failed) || failed.Phase != transport.PhaseDial ||
		!strings.HasPrefix(err.Error(), "pgnotify: connect to "+e.String()+" (127.0.0.1): ") {
		t.Errorf("got %v", err)
	}
}
