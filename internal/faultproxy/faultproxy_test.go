package faultproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/faultproxy"
)

// A server answers each line with "re " and that line, and "two" in two pieces.
type server struct {
	network, address string
	second           chan struct{} // closed before the second piece is sent

	mu    sync.Mutex // guards lines
	lines []string
}

func (s *server) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, " ")
}

// waitFor waits until the server has heard these lines.
func (s *server) waitFor(t *testing.T, lines string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); s.heard() != lines; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the server heard %q, not %q", s.heard(), lines)
		}
	}
}

func startServer(t *testing.T, network string) *server {
	t.Helper()
	s := &server{network: network, second: make(chan struct{})}
	address := "127.0.0.1:0"
	if network == "unix" {
		folder, err := os.MkdirTemp("", "faultproxy-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		address = filepath.Join(folder, "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	var tasks sync.WaitGroup
	tasks.Go(func() { // ends with the listener; joined by the cleanup
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { s.answer(c) }) // ends when the proxy closes; joined by the cleanup
		}
	})
	t.Cleanup(func() { l.Close(); tasks.Wait() })
	return s
}

func (s *server) answer(c net.Conn) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		s.mu.Lock()
		s.lines = append(s.lines, line)
		s.mu.Unlock()
		if line == "quit" {
			fmt.Fprintln(c, "bye")
			return
		}
		if line != "two" {
			fmt.Fprintln(c, "re "+line)
			continue
		}
		fmt.Fprint(c, "re ")
		<-s.second
		fmt.Fprintln(c, line)
	}
}

// eachNetwork runs a test over TCP and over a unix socket.
func eachNetwork(t *testing.T, f func(t *testing.T, s *server, p *faultproxy.Proxy)) {
	t.Helper()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, network)
			f(t, s, faultproxy.Start(t, network, s.address))
		})
	}
}

// A client speaks over the proxy.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, s *server, p *faultproxy.Proxy) *client {
	t.Helper()
	address := net.JoinHostPort(p.Host(), strconv.Itoa(p.Port()))
	if s.network == "unix" {
		address = filepath.Join(p.Host(), fmt.Sprintf(".s.PGSQL.%d", p.Port()))
	}
	c, err := net.Dial(s.network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{c, bufio.NewReader(c)}
}

// ask sends a line and returns the answer, as far as it comes.
func (c *client) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := c.r.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// want asks and checks the whole answer.
func (c *client) want(t *testing.T, line, want string) {
	t.Helper()
	if got, err := c.ask(line); err != nil || got != want {
		t.Errorf("%s: got %q, %v", line, got, err)
	}
}

// wantLost asks and checks what is left of the answer, and how it ends.
func (c *client) wantLost(t *testing.T, line, want string, reset bool) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c.r)
	if string(got) != want || errors.Is(err, syscall.ECONNRESET) != reset || (err != nil) != reset {
		t.Errorf("%.20s: got %q, %v; want %q, reset %v", line, got, err, want, reset)
	}
}

func TestWithoutAFaultAllPasses(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		c := dial(t, s, p)
		close(s.second)
		for _, line := range []string{"one", "two", strings.Repeat("x", 60000), "three", "quit"} {
			want := "re " + line
			if line == "quit" {
				want = "bye"
			}
			c.want(t, line, want)
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("the server has closed: %v", err)
		}
		if p.Sessions() != 1 || p.Broken() != 0 {
			t.Errorf("%d sessions, %d broken", p.Sessions(), p.Broken())
		}
	})
}

// eachEnd runs a test over each network, with the end and with a reset.
func eachEnd(t *testing.T, f func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool)) {
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		f(t, s, p, false)
	})
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		if s.network == "unix" && runtime.GOOS != "linux" {
			t.Skip("a unix socket may know no reset here")
		}
		f(t, s, p, true)
	})
}

func TestTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keep int
		want string
	}{
		"all of it":         {0, ""},
		"but its beginning": {4, "re l"},
		"its last byte":     {-1, "re lost"},
		"nothing":           {100, "re lost\n"},
		"more than it has":  {-100, ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachEnd(t, func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool) {
				conn := dial(t, s, p)
				conn.want(t, "first", "re first")
				p.Break(faultproxy.Fault{Keep: c.keep, Reset: reset})
				conn.wantLost(t, "lost", c.want, reset)
				if p.Broken() != 1 || s.heard() != "first lost" {
					t.Errorf("%d broken; the server heard %s", p.Broken(), s.heard())
				}
				dial(t, s, p).want(t, "again", "re again")
			})
		})
	}
}

func TestRequestsAreSkipped(t *testing.T) {
	t.Parallel()
	eachEnd(t, func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool) {
		p.Break(faultproxy.Fault{Match: "this", Skip: 1, Reset: reset})
		other, conn := dial(t, s, p), dial(t, s, p)
		other.want(t, "a", "re a")
		conn.want(t, "b", "re b")
		conn.want(t, "this", "re this")
		other.want(t, "this", "re this")
		conn.wantLost(t, "c", "", reset)
		other.want(t, "d", "re d")
	})
}

// One request, however it is cut.
func TestRequestInSeveralPieces(t *testing.T) {
	t.Parallel()
	eachEnd(t, func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool) {
		conn, large := dial(t, s, p), strings.Repeat("x", 300_000)
		conn.want(t, "a", "re a")
		p.Break(faultproxy.Fault{Skip: 1, Reset: reset})
		for _, line := range []string{large + "b", large + "c"} {
			for i := range 3 {
				if _, err := fmt.Fprint(conn, line[i*100_000:(i+1)*100_000]); err != nil {
					t.Fatal(err)
				}
			}
			if rest := line[300_000:]; rest == "b" {
				conn.want(t, rest, "re "+line)
			} else {
				conn.wantLost(t, rest, "", reset)
			}
		}
		s.waitFor(t, "a "+large+"b "+large+"c")
	})
}

func TestUnsentRequest(t *testing.T) {
	t.Parallel()
	eachEnd(t, func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool) {
		conn := dial(t, s, p)
		conn.want(t, "first", "re first")
		p.Break(faultproxy.Fault{Unsent: true, Reset: reset})
		request := "never"
		if !reset { // several pieces, of which the first is enough
			request = strings.Repeat("never", 50_000)
		}
		conn.wantLost(t, request, "", reset)
		if p.Broken() != 1 || s.heard() != "first" {
			t.Errorf("%d broken; the server heard %s", p.Broken(), s.heard())
		}
	})
}

func TestRepeatedFault(t *testing.T) {
	t.Parallel()
	eachEnd(t, func(t *testing.T, s *server, p *faultproxy.Proxy, reset bool) {
		p.Break(faultproxy.Fault{Match: "lost", Repeat: true, Reset: reset})
		for range 3 {
			conn := dial(t, s, p)
			conn.want(t, "first", "re first")
			conn.wantLost(t, "lost", "", reset)
		}
		p.Break(faultproxy.Fault{Match: "another"})
		dial(t, s, p).want(t, "lost", "re lost")
		if n := p.Broken(); n != 3 {
			t.Errorf("%d broken", n)
		}
	})
}

func TestFaultThatIsHeld(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		conn, hold := dial(t, s, p), make(chan struct{})
		p.Break(faultproxy.Fault{Keep: 4, Hold: hold})
		if _, err := fmt.Fprintln(conn, "two"); err != nil {
			t.Fatal(err)
		}
		s.waitFor(t, "two")
		close(s.second)
		if _, err := fmt.Fprintln(conn, "three"); err != nil {
			t.Fatal(err)
		}
		s.waitFor(t, "two three") // the server answers, and the session goes on
		if p.Broken() != 0 {
			t.Error("it was not held")
		}
		close(hold)
		if got, err := io.ReadAll(conn); err != nil || string(got) != "re " && string(got) != "re t" { // the rest may be under way
			t.Errorf("got %q, %v", got, err)
		}
		if p.Broken() != 1 {
			t.Errorf("%d broken", p.Broken())
		}
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		for _, reset := range []bool{false, true} {
			idle, waiting := dial(t, s, p), dial(t, s, p)
			idle.want(t, "a", "re a")
			if _, err := fmt.Fprintln(waiting, "two"); err != nil {
				t.Fatal(err)
			}
			if first, err := waiting.r.ReadString(' '); first != "re " {
				t.Fatalf("got %q, %v", first, err)
			}
			p.Cut(reset)
			for _, c := range []*client{idle, waiting} {
				rest, err := io.ReadAll(c.r)
				if len(rest) != 0 || errors.Is(err, syscall.ECONNRESET) != (reset && s.network == "tcp") {
					t.Errorf("reset %v: got %q, %v", reset, rest, err)
				}
			}
			dial(t, s, p).want(t, "b", "re b")
		}
		close(s.second)
		if p.Broken() != 0 {
			t.Errorf("%d broken", p.Broken())
		}
	})
}

// A test may end while sessions are open and a fault is held.
func TestEndOfTheTest(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, s *server, p *faultproxy.Proxy) {
		conn := dial(t, s, p)
		conn.want(t, "first", "re first")
		p.Break(faultproxy.Fault{Hold: make(chan struct{})})
		if _, err := fmt.Fprintln(conn, "held"); err != nil {
			t.Fatal(err)
		}
		s.waitFor(t, "first held")
	})
}

// A server that cannot be reached ends the session.
func TestNoServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, "unix")
	p := faultproxy.Start(t, "unix", s.address+"-not")
	if _, err := dial(t, s, p).r.ReadByte(); err == nil {
		t.Error("something answers")
	}
}
