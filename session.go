package pgnotify

import (
	"database/sql/driver"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
	"github.com/pgnotify/pgnotify/internal/transport"
	"github.com/pgnotify/pgnotify/internal/turn"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// libpqConn is lib/pq's driver connection: what pgnotify needs of it.
type libpqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Validator
}

// A session is one session of the server. The pool owns it through its Conn;
// handles made by FromConn point to the same session and hold a lease, which
// ends when the session is returned.
type session struct {
	config *Config // the connector's: immutable
	link   *transport.Conn
	wire   *wire.Conn
	pq     libpqConn
	self   Conn           // the driver.Conn that the pool holds
	probe  *fdwatch.Probe // made at the first checkout; nil where there is none

	turn turn.Turn
	op   operation // of whoever has the turn

	hearing    atomic.Pointer[hearing] // nil until it is needed
	wantActive atomic.Bool             // somebody waits for notifications

	lease atomic.Uint64 // number of the present borrower; 0 between two

	leaseMu sync.Mutex    // guards the fields below
	leases  uint64        // borrowers so far
	closed  bool          // there will be no other
	cutOff  uint64        // the borrower that had the session when it was closed
	over    chan struct{} // closed when the lease ends; nil until somebody waits
}

// newSession returns a session on which nothing has been said yet. Its turn is
// taken, for the start-up: callbacks that use it meanwhile wait.
func newSession(config *Config, link *transport.Conn) *session {
	s := &session{config: config, link: link}
	s.self = Conn{s: s}
	s.turn.TryTake()
	s.wire = wire.NewConn(link, s)
	s.beginLease()
	return s
}

func (s *session) log() *slog.Logger {
	if s.config.Logger != nil {
		return s.config.Logger
	}
	return slog.Default()
}

// beginLease lets a new borrower use the session.
func (s *session) beginLease() {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if !s.closed && s.lease.Load() == 0 {
		s.leases++
		s.lease.Store(s.leases)
		if h := s.hearing.Load(); h != nil {
			h.reset(s.leases)
		}
	}
}

// endLease makes all handles fail and forgets what the borrower left: handlers
// and notifications.
func (s *session) endLease(closed bool) {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if closed && !s.closed {
		s.closed, s.cutOff = true, s.lease.Load()
	}
	s.lease.Store(0)
	if s.over != nil {
		close(s.over)
		s.over = nil
	}
	if h := s.hearing.Load(); h != nil {
		h.reset(0)
		if s.closed {
			h.events.Close()
		}
	}
}

// checkLease returns why a handle of the given lease fails, nil while it works;
// lease 0 is that of whoever has the session.
func (s *session) checkLease(lease uint64) error {
	if s.hasLease(lease) {
		return nil
	}
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if s.closed && s.cutOff != 0 && (lease == 0 || lease == s.cutOff) {
		return ErrClosed
	}
	return ErrReleased
}

func (s *session) hasLease(lease uint64) bool {
	now := s.lease.Load()
	return now != 0 && (lease == 0 || lease == now)
}

// leaseOver returns a channel that is closed when the given lease has ended.
func (s *session) leaseOver(lease uint64) <-chan struct{} {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if !s.hasLease(lease) {
		over := make(chan struct{})
		close(over)
		return over
	}
	if s.over == nil {
		s.over = make(chan struct{})
	}
	return s.over
}

// returned is called when database/sql puts the session back into the pool. It
// reports whether the next borrower may have it: nothing of the last one must
// be left.
func (s *session) returned() bool {
	s.endLease(false)
	if !s.turn.TryTake() {
		return false
	}
	defer s.turn.Release()
	s.op.txCtx = nil
	return s.wire.Clean() && s.wire.Status() == 'I' && !s.wire.Listened() && s.pq.IsValid()
}

// catchUp takes in what the server has said since the session was returned. An
// active session has done that already.
func (s *session) catchUp() {
	if s.wire.Active() {
		return
	}
	if s.probe == nil {
		if socket, ok := s.link.Socket.(syscall.Conn); ok {
			s.probe = fdwatch.NewProbe(socket)
		}
	}
	if s.probe != nil && s.probe.Readable() {
		s.wire.CatchUp()
	}
}

// close ends the session. A clean one says goodbye to the server.
func (s *session) close() {
	s.endLease(true)
	if s.turn.TryTake() {
		defer s.turn.Release() // for those who wait for it, and find the session lost
		if s.wire.Clean() {
			_ = s.wire.SetWriteDeadline(farewellDeadline())
			_ = s.pq.Close()
		}
	}
	_ = s.wire.Close()
}

// activate has the wire read by a goroutine of its own, now or as soon as the
// request under way is done.
func (s *session) activate() {
	if s.wire.Active() {
		return
	}
	s.wantActive.Store(true)
	if s.turn.TryTake() {
		s.freeTurn()
	}
}

// freeTurn gives the turn back and activates the wire, if somebody wants it:
// whoever fails to take the turn leaves that to whoever has it.
func (s *session) freeTurn() {
	for again := true; again; {
		failed := s.wantActive.Load() && !s.wire.Activate()
		s.turn.Release()
		again = !failed && s.wantActive.Load() && !s.wire.Active() && s.turn.TryTake()
	}
}
