package pgfake

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// The codes that take the place of the protocol version in a start-up packet.
const (
	cancelRequestCode = 1234<<16 | 5678
	sslRequestCode    = 1234<<16 | 5679
)

// PID and Key are what Greet gives a session for cancel requests.
const (
	PID = 4711
	Key = "key!"
)

// A Server plays scripts to its clients.
type Server struct {
	listener net.Listener
	scripts  []Script
	sessions atomic.Int64
	cancels  atomic.Int64
	done     chan struct{} // closed when the test has ended

	mu       sync.Mutex // guards the fields below
	open     map[net.Conn]bool
	requests []string // to cancel
	onCancel func(request string)
	ended    bool
	tasks    sync.WaitGroup
}

// A Script is what happens on one connection. At its end, or when a step fails,
// the connection is closed.
type Script []Step

// A Step is one thing to do on a connection.
type Step func(*Session) error

// A Session is a connection to the server, for steps.
type Session struct {
	net.Conn
	server *Server
	r      *bufio.Reader
}

// Start starts a server that ends with the test. The first connection plays the
// first script and so on, and the last script is for all further ones. Cancel
// requests are counted and closed; they play no script.
func Start(t testing.TB, scripts ...Script) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{listener: listener, scripts: scripts, done: make(chan struct{}), open: make(map[net.Conn]bool)}
	s.tasks.Go(func() { s.accept(t) }) // ends with the listener; joined by close
	t.Cleanup(s.close)
	return s
}

// DSN returns the server's connection string, without TLS.
func (s *Server) DSN() string {
	addr := s.listener.Addr().(*net.TCPAddr)
	return fmt.Sprintf("host=%s port=%d user=fake dbname=fake sslmode=disable", addr.IP, addr.Port)
}

// Addr returns where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Sessions returns how many connections have played a script, or are doing so.
func (s *Server) Sessions() int { return int(s.sessions.Load()) }

// Cancels returns how many cancel requests came.
func (s *Server) Cancels() int { return int(s.cancels.Load()) }

// CancelRequests returns the content of the cancel requests after their code: a process
// id of 4 bytes and a key.
func (s *Server) CancelRequests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// OnCancel has f called with each further cancel request, as CancelRequests returns it,
// before its connection is closed. f is called by several goroutines at a time.
func (s *Server) OnCancel(f func(request string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onCancel = f
}

func (s *Server) close() {
	s.listener.Close()
	close(s.done)
	s.mu.Lock()
	s.ended = true
	for conn := range s.open {
		conn.Close()
	}
	s.mu.Unlock()
	s.tasks.Wait()
}

func (s *Server) accept(t testing.TB) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		if !s.add(conn) {
			conn.Close()
			return
		}
		s.tasks.Go(func() { // ends with its connection; joined by close
			defer s.remove(conn)
			if err := s.play(&Session{Conn: conn, server: s, r: bufio.NewReader(conn)}); err != nil {
				t.Logf("pgfake: %v", err)
			}
		})
	}
}

func (s *Server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[conn] = true
	return !s.ended
}

func (s *Server) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	conn.Close()
}

func (s *Server) play(c *Session) error {
	if head, err := c.r.Peek(8); err == nil && binary.BigEndian.Uint32(head[4:]) == cancelRequestCode {
		return s.noteCancel(c)
	}
	n := int(s.sessions.Add(1)) - 1
	for i, step := range s.scripts[min(n, len(s.scripts)-1)] {
		if err := step(c); err == errScriptEnd {
			return nil
		} else if err != nil {
			return fmt.Errorf("session %d, step %d: %w", n, i, err)
		}
	}
	return nil
}

// noteCancel reads a cancel request, which must have nothing behind it.
func (s *Server) noteCancel(c *Session) error {
	body, err := c.readBody(1 << 16)
	if err != nil {
		return err
	}
	if n := c.r.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes behind a cancel request", n)
	}
	request := string(body[4:])
	s.mu.Lock()
	s.requests = append(s.requests, request)
	onCancel := s.onCancel
	s.mu.Unlock()
	s.cancels.Add(1)
	if onCancel != nil {
		onCancel(request)
	}
	return nil
}
