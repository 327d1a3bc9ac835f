package pgnotify_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A valve is a proxy that can stop passing on what comes, without anybody being
// told: its ends stay connected, and the system goes on to acknowledge what it is
// sent, and to answer keepalives. Its methods are safe for concurrent use.
type valve struct {
	network, server string
	listener        net.Listener
	done            chan struct{} // closed when the test has ended
	tasks           sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	pipes    map[*pipe]bool
	requests chan struct{}        // closed while they pass
	answers  chan struct{}        // closed while they pass
	asked    func(request []byte) // called with what clients say; nil at first

	// ends is nil, or ends the TLS of a client and begins another to the server.
	ends func(p *pipe) error
}

// A pipe is one connection through a valve.
type pipe struct {
	valve          *valve
	client, server net.Conn
	said, answered io.ReadWriter // what passes: the connections, or their TLS

	mu   sync.Mutex // guards left
	left int        // of the answers until the pipe breaks; negative: it does not
}

// newValve returns a valve in front of the server of a DSN, which ends with the
// test, and the option that leads there.
func newValve(t testing.TB, dsn string) (*valve, func(*pgnotify.Config)) {
	t.Helper()
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{done: make(chan struct{}), pipes: make(map[*pipe]bool)}
	v.requests, v.answers = flowing(), flowing()
	host, port := config.Host, strconv.Itoa(int(config.Port))
	if config.Hostaddr.IsValid() {
		host = config.Hostaddr.String()
	}
	v.network, v.server = "tcp", net.JoinHostPort(host, port)
	address := "127.0.0.1:0"
	if strings.HasPrefix(host, "/") {
		folder, err := os.MkdirTemp("", "valve-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		v.network, v.server = "unix", filepath.Join(host, ".s.PGSQL."+port)
		address = filepath.Join(folder, ".s.PGSQL."+port)
	}
	if v.listener, err = net.Listen(v.network, address); err != nil {
		t.Fatal(err)
	}
	v.tasks.Go(v.accept) // ends with the listener; joined by close
	t.Cleanup(v.close)
	return v, func(c *pgnotify.Config) {
		c.Multi = nil
		if a, ok := v.listener.Addr().(*net.TCPAddr); ok {
			c.Hostaddr, c.Port = netip.MustParseAddr(a.IP.String()), uint16(a.Port)
		} else {
			c.Host = filepath.Dir(address)
		}
	}
}

func flowing() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// shut stops what servers say, and what clients say too if both is true, on
// connections that there are and on those to come.
func (v *valve) shut(both bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if closed(v.answers) {
		v.answers = make(chan struct{})
	}
	if both && closed(v.requests) {
		v.requests = make(chan struct{})
	}
}

// open ends shut, and lets through what was held back.
func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range []chan struct{}{v.requests, v.answers} {
		if !closed(c) {
			close(c)
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cut ends all connections. With reset, clients over TCP see a reset.
func (v *valve) cut(reset bool) {
	for _, p := range v.all() {
		p.close(reset)
	}
}

// cutAfter is cut for each connection that there is, as soon as so many more bytes
// of answers have passed; a negative number takes that back.
func (v *valve) cutAfter(bytes int) {
	for _, p := range v.all() {
		p.mu.Lock()
		p.left = bytes
		p.mu.Unlock()
	}
}

// listen has f called with what clients say, in the pieces in which it comes.
func (v *valve) listen(f func(request []byte)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = f
}

func (v *valve) all() (pipes []*pipe) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for p := range v.pipes {
		pipes = append(pipes, p)
	}
	return pipes
}

func (v *valve) close() {
	v.listener.Close()
	close(v.done)
	v.cut(false)
	v.tasks.Wait()
}

func (v *valve) accept() {
	for {
		client, err := v.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(v.network, v.server)
		if err != nil {
			client.Close()
			continue
		}
		p := &pipe{valve: v, client: client, server: server, said: client, answered: server, left: -1}
		v.mu.Lock()
		v.pipes[p] = true
		v.mu.Unlock()
		if closed(v.done) {
			p.close(false)
			return
		}
		v.tasks.Go(p.pass) // ends with the connections; joined by close
	}
}

// passes waits until the valve lets something through, and reports false when the
// test has ended.
func (v *valve) passes(which *chan struct{}) bool {
	v.mu.Lock()
	gate := *which
	v.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-v.done:
		return false
	}
}

// pass passes on both ways.
func (p *pipe) pass() {
	if ends := p.valve.ends; ends != nil && ends(p) != nil {
		p.close(false)
		return
	}
	p.valve.tasks.Go(p.passAnswers)
	p.passRequests()
}

func (p *pipe) passRequests() {
	defer p.close(false)
	for buf := make([]byte, 64<<10); ; {
		n, err := p.said.Read(buf)
		if n > 0 && p.valve.passes(&p.valve.requests) {
			p.valve.mu.Lock()
			asked := p.valve.asked
			p.valve.mu.Unlock()
			if asked != nil {
				asked(buf[:n])
			}
			_, _ = p.answered.Write(buf[:n])
		}
		if err != nil {
			p.valve.passes(&p.valve.requests) // an end is not passed on either
			return
		}
	}
}

func (p *pipe) passAnswers() {
	defer p.close(false)
	for buf := make([]byte, 64<<10); ; {
		n, err := p.answered.Read(buf)
		if n > 0 && p.valve.passes(&p.valve.answers) {
			passing, breaks := p.take(n)
			_, _ = p.said.Write(buf[:passing])
			if breaks {
				return
			}
		}
		if err != nil {
			p.valve.passes(&p.valve.answers)
			return
		}
	}
}

// take returns how many of n bytes pass, and whether that is all.
func (p *pipe) take(n int) (passing int, breaks bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left < 0 {
		return n, false
	}
	passing = min(n, p.left)
	p.left -= passing
	return passing, p.left == 0
}

func (p *pipe) close(reset bool) {
	if tcp, ok := p.client.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	p.client.Close()
	p.server.Close()
	p.valve.mu.Lock()
	defer p.valve.mu.Unlock()
	delete(p.valve.pipes, p)
}
