package states_test

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A server answers the statements of requests, not always rightly.
type server struct {
	*pgfake.Server
	w    *world
	calm atomic.Bool // it makes no mischief any more

	mu       sync.Mutex // guards the fields below
	sessions map[uint32]*session
	pids     uint32
}

func newServer(t testing.TB, w *world) *server {
	t.Helper()
	s := &server{w: w, sessions: make(map[uint32]*session)}
	s.Server = pgfake.Start(t, pgfake.Script{s.serve})
	s.OnCancel(s.cancel)
	return s
}

func (s *server) serve(c *pgfake.Session) error {
	x := s.add(c)
	defer s.remove(x)
	key := string(binary.BigEndian.AppendUint32(nil, x.pid))
	if err := pgfake.GreetAs(x.pid, key)(c); err != nil {
		return nil // the program has given up
	}
	x.answerAll()
	return nil
}

func (s *server) add(c *pgfake.Session) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids++
	x := &session{Session: c, server: s, pid: s.pids, status: 'I', dice: s.w.diceFor(1<<40 + uint64(s.pids)),
		prepared: make(map[string]string), listening: make(map[string]bool), carried: make(map[string]int), cancelled: make(chan struct{}, 1)}
	s.sessions[x.pid] = x
	return x
}

func (s *server) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x.pid)
}

// all returns the sessions that there are.
func (s *server) all() (all []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		all = append(all, x)
	}
	return all
}

// end ends all sessions, for a program that hangs.
func (s *server) end() {
	for _, x := range s.all() {
		x.odd.Store(true)
		x.Close()
	}
}

// calmDown has the server make no more mischief. Sessions that are silent end, because
// nobody can know that they are.
func (s *server) calmDown() {
	s.calm.Store(true)
	for _, x := range s.all() {
		if x.silent.Load() {
			x.Close()
		}
	}
}

// cancel is called with a cancel request. Sometimes it takes its time.
func (s *server) cancel(request string) {
	pid := binary.BigEndian.Uint32([]byte(request))
	s.mu.Lock()
	x := s.sessions[pid]
	s.mu.Unlock()
	s.w.trace.add("cancel request for s%d", pid)
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.busy {
		select {
		case x.cancelled <- struct{}{}:
		default:
		}
	}
}

// poke has something happen to a session that waits for a request, or is about to get
// one.
func (s *server) poke(dice *rand.Rand) {
	all := s.all()
	if len(all) == 0 {
		return
	}
	x := all[dice.IntN(len(all))]
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.busy || !x.greeted {
		return
	}
	o := output{frames: x.noise(dice, 1)}
	if dice.Float64() < s.w.mischief && !s.calm.Load() {
		o = idleMischief(dice)
	}
	if !x.write(o, dice) {
		x.Close()
	}
}

// between returns a random time.
func between(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)))
}
