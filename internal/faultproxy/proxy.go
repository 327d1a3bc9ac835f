package faultproxy

import (
	"bytes"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// socketPort stands in the name of a unix socket in place of a port.
const socketPort = 5432

// A Proxy forwards what clients and a server send to each other. Its methods are safe
// for concurrent use.
type Proxy struct {
	network, server string
	listener        net.Listener
	folder          string        // of the unix socket; "" for TCP
	done            chan struct{} // closed when the test has ended
	tasks           sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	fault    *Fault     // for the next request that matches
	open     map[*link]bool
	ended    bool
	sessions int
	broken   int
}

// Start starts a proxy that ends with the test. It listens on the kind of address it
// dials: the loopback interface for "tcp", a folder of its own for "unix".
func Start(t testing.TB, network, server string) *Proxy {
	t.Helper()
	p := &Proxy{network: network, server: server, done: make(chan struct{}), open: make(map[*link]bool)}
	address := "127.0.0.1:0"
	if network == "unix" {
		folder, err := os.MkdirTemp("", "faultproxy-") // t.TempDir is too long for the name of a socket
		if err != nil {
			t.Fatal(err)
		}
		p.folder, address = folder, filepath.Join(folder, ".s.PGSQL.5432")
	}
	t.Cleanup(p.close)
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	p.listener = listener
	p.tasks.Go(p.accept) // ends with the listener; joined by close
	return p
}

// Host returns the host for a DSN: an address, or the folder of the socket.
func (p *Proxy) Host() string {
	if p.folder != "" {
		return p.folder
	}
	return p.listener.Addr().(*net.TCPAddr).IP.String()
}

// Port returns the port for a DSN.
func (p *Proxy) Port() int {
	if p.folder != "" {
		return socketPort
	}
	return p.listener.Addr().(*net.TCPAddr).Port
}

// Break makes the next matching request start the fault. It replaces an earlier fault
// that no request has started.
func (p *Proxy) Break(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = &f
}

// Cut ends all sessions, whatever they are doing. With reset, TCP clients see a reset.
func (p *Proxy) Cut(reset bool) {
	p.mu.Lock()
	open := slices.Collect(maps.Keys(p.open))
	p.mu.Unlock()
	for _, l := range open {
		l.close(reset)
	}
}

// Sessions returns how many connections were made, including those of cancel requests.
func (p *Proxy) Sessions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions
}

// Broken returns how many faults have happened. A fault that a client sees has already
// been counted.
func (p *Proxy) Broken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

func (p *Proxy) close() {
	if p.listener != nil {
		p.listener.Close()
	}
	close(p.done)
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.Cut(false)
	p.tasks.Wait()
	if p.folder != "" {
		os.RemoveAll(p.folder)
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(p.network, p.server)
		if err != nil {
			client.Close()
			continue
		}
		l := &link{proxy: p, client: client, server: server}
		if !p.add(l) {
			l.close(false)
			return
		}
		p.tasks.Go(l.passRequests) // both end with the connections; joined by close
		p.tasks.Go(l.passAnswers)
	}
}

func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.open[l] = true
	p.sessions++
	return true
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, l)
}

// claim returns the fault that a request starts, or nil.
func (p *Proxy) claim(request []byte) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.fault
	if f == nil || !bytes.Contains(request, []byte(f.Match)) {
		return nil
	}
	if !f.Repeat {
		p.fault = nil
	}
	return f
}

func (p *Proxy) count() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken++
}
