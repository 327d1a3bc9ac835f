package wire_test

import (
	"io"
	"net"
	"sync"
	"time"
)

// A script is a net.Conn whose peer answers the n-th Write with answers[n], and
// closes the connection after the last answer. A Read returns what cut allows.
type script struct {
	cut func(offset, available int) int // how much of available bytes at offset to give

	mu      sync.Mutex // guards the fields below
	changed *sync.Cond
	answers [][]byte
	waiting []byte // of the answer being read
	offset  int    // bytes read so far
	hold    bool   // do not close after the last answer
	closed  bool
}

func newScript(cut func(offset, available int) int, answers ...[]byte) *script {
	s := &script{cut: cut, answers: answers}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if len(s.answers) > 0 {
		s.waiting = append(s.waiting, s.answers[0]...)
		s.answers = s.answers[1:]
	}
	s.changed.Broadcast()
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) == 0 && !s.closed && (len(s.answers) > 0 || s.hold) {
		s.changed.Wait()
	}
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case len(s.waiting) == 0:
		return 0, io.EOF
	}
	n := copy(p, s.waiting[:s.cut(s.offset, len(s.waiting))])
	s.waiting = s.waiting[n:]
	s.offset += n
	return n, nil
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
	return nil
}

func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// Ways to cut a stream.

func whole(_, available int) int { return available }

func bytewise(_, _ int) int { return 1 }

// cutAt gives two reads for the stream: up to offset at, and from there.
func cutAt(at int) func(int, int) int {
	return func(offset, available int) int {
		if offset < at {
			return min(available, at-offset)
		}
		return available
	}
}
