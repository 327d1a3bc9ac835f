package pgnotify

import (
	"database/sql/driver"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
	"github.com/pgnotify/pgnotify/internal/transport"
	"github.com/pgnotify/pgnotify/internal/turn"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// libpqConn is what pgnotify needs of lib/pq's driver connection.
type libpqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Validator
}

// A session is one session of the server. The pool owns it through its Conn. Handles
// made by FromConn point to the same session and hold a lease, which ends when the
// session is returned.
type session struct {
	config *Config // the connector's: immutable
	link   *transport.Conn
	wire   *wire.Conn
	pq     libpqConn
	self   Conn            // the driver.Conn that the pool holds
	socket syscall.RawConn // below TLS; nil where the connection has none

	turn       turn.Turn
	op         operation      // of whoever has the turn
	statements *statements    // likewise; nil until one is kept
	meanings   *atomic.Uint32 // the connector's; see Connector

	hearing    atomic.Pointer[hearing]       // nil until it is needed
	watch      atomic.Pointer[fdwatch.Watch] // nil where the socket cannot be watched
	hungUp     atomic.Bool                   // whoever frees the turn must look at the socket
	wantActive atomic.Bool                   // somebody waits for notifications

	idleSince time.Duration // when database/sql returned the session; for its calls only

	lease atomic.Uint64 // number of the present borrower; 0 between borrowers; see toldLeases

	leaseMu sync.Mutex    // guards the fields below
	leases  uint64        // borrowers so far
	over    chan struct{} // closed when the lease ends; nil until somebody waits
	ends    *ends         // those who wait for the loss of the session; nil until somebody does
	closed  bool          // there will be no further borrower
	cut     bool          // the last borrower had the session when it was closed
	given   bool          // the session was given to the pool
	told    bool          // OnDisconnect was called
	trace   trace         // of the present borrower, until the first return

	used atomic.Bool // the present borrower has done something with the session
	seen uint32      // of meanings; of whoever has the turn, and here to fill a gap
}

// newSession returns a session on which nothing has been said yet. Its turn is taken
// for the start-up, so callbacks that use it wait.
func newSession(c *Connector, link *transport.Conn) *session {
	s := &session{config: c.config, link: link, meanings: c.meanings, seen: c.meanings.Load()}
	s.self = Conn{s: s}
	if socket, ok := link.Socket.(syscall.Conn); ok {
		s.socket, _ = socket.SyscallConn()
	}
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
		s.trace = noTrace
		s.used.Store(false)
		if h := s.hearing.Load(); h != nil {
			h.reset(s.leases)
		}
	}
}

// endLease makes all handles fail, and discards the handlers and notifications that the
// borrower left.
func (s *session) endLease(closed bool) {
	if waiting := s.endLeaseOnly(closed); waiting != nil {
		waiting.tell(ErrReleased)
	}
}

// endLeaseOnly returns those who wait for the end of the session, to be told that it
// was returned. If it was closed, Lost tells them.
func (s *session) endLeaseOnly(closed bool) (waiting *ends) {
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	if !closed {
		waiting, s.ends = s.ends, nil
	}
	if closed && !s.closed {
		s.closed, s.cut = true, s.lease.Load() != 0
	}
	s.lease.Store(0)
	if s.over != nil {
		close(s.over)
		s.over = nil
	}
	if h := s.hearing.Load(); h != nil {
		h.clearHandlers()
		if !s.cutOffByLossLocked() { // otherwise the borrower may still take what had come
			h.backlog.reset(0)
		}
		if s.closed {
			h.events.Close()
		}
	}
	return waiting
}

// checkLease returns why a handle with the given lease fails, or nil while it works.
// Lease 0 is that of whoever has the session.
func (s *session) checkLease(lease uint64) error {
	if s.hasLease(lease) {
		return nil
	}
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	return s.leaseErrorLocked(lease)
}

// leaseErrorLocked returns why a handle fails whose lease has ended.
func (s *session) leaseErrorLocked(lease uint64) error {
	if !s.closed || !s.cut || lease != 0 && lease != s.leases {
		return ErrReleased
	}
	if s.cutOffByLossLocked() {
		return s.disconnectError()
	}
	return ErrClosed
}

// cutOffByLossLocked reports whether the session was closed under its borrower because
// it was lost, as database/sql does after a statement has failed over that.
func (s *session) cutOffByLossLocked() bool {
	if !s.closed || !s.cut {
		return false
	}
	lost := s.disconnectError()
	return lost != nil && lost.Reason != ClosedLocally
}

func (s *session) hasLease(lease uint64) bool {
	now := s.lease.Load()
	has := now != 0 && (lease == 0 || lease == now)
	if has {
		s.use()
	}
	return has
}

// use notes that there is a borrower. The pool returns a new session unused if the call
// that it was opened for has ended meanwhile, and does not reset it for the next one.
func (s *session) use() {
	if !s.used.Load() {
		s.used.Store(true)
	}
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

// returned is called when database/sql puts the session back into the pool. It reports
// whether the next borrower may have it: nothing of the last borrower may be left.
func (s *session) returned() bool {
	unused := !s.used.Load()
	if s.endLease(false); unused {
		s.beginLease()
	}
	if !s.turn.TryTake() {
		return false
	}
	defer s.freeTurn()
	s.op.tx.Store(nil)
	s.closeUnclosed()
	if left := s.op.unfinished.Load(); left != nil {
		*left = unfinished{} // statements that gave way and never came back, as for a user of Raw
	}
	if s.idleSince = now(); s.op.failed {
		s.idleSince = -idleMoment
	}
	return s.wire.Clean() && s.wire.Status() == 'I' && !s.wire.Listened() && s.pq.IsValid()
}

// catchUp reads what the server has sent since the session was returned. An active
// session has already read it. Shortly after the return catchUp does not look, unless
// the last request failed: looking costs a system call, and a watched session is told
// of its end.
func (s *session) catchUp() {
	if s.wire.Active() {
		return
	}
	if s.watched() && !s.hungUp.Load() && now()-s.idleSince < idleMoment {
		return
	}
	if s.readable() {
		s.wire.CatchUp()
	}
}

// idleMoment is how long an idle session is assumed to have received nothing.
const idleMoment = time.Millisecond

var processStart = time.Now()

// now reads a monotonic clock into eight bytes.
func now() time.Duration { return time.Since(processStart) }

// close ends the session. A session in a clean state says goodbye to the server.
func (s *session) close() {
	s.endLease(true)
	if s.turn.TryTake() {
		defer s.turn.Release() // for those who wait for it, and will find the session lost
		if s.wire.Clean() {
			s.wire.Leave()
			s.boundFarewell()
			_ = s.pq.Close()
		}
	}
	_ = s.wire.Close()
}

// farewellTime is how long a closing session waits to send its goodbye.
const farewellTime = 50 * time.Millisecond

// boundFarewell keeps a session from blocking on its goodbye. A socket normally has
// room for it: the server has answered, and so has read all that was sent before. That
// is not so after a failed COPY, whose data the server may not have read, nor for other
// connections, such as a pipe, which may have no buffer at all.
func (s *session) boundFarewell() {
	if s.socket == nil || s.wire.Status() != 'I' {
		_ = s.wire.SetWriteDeadline(time.Now().Add(farewellTime))
	}
}

// activate has a goroutine of the session's own read the wire, now or as soon as the
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

// freeTurn gives the turn back. Before that it looks at the socket if it has hung up,
// and activates the wire if somebody wants it: whoever fails to take the turn leaves
// both to whoever has it.
func (s *session) freeTurn() {
	for again := true; again; {
		if s.hungUp.Swap(false) {
			s.wire.CatchUp()
		}
		failed := s.wantActive.Load() && !s.wire.Activate()
		s.turn.Release()
		wanted := !failed && s.wantActive.Load() && !s.wire.Active()
		again = (wanted || s.hungUp.Load()) && s.turn.TryTake()
	}
}
