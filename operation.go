package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"runtime"
	"sync/atomic"
	"time"
	"weak"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/turn"
)

// background is what lib/pq gets in place of the caller's context. lib/pq would give up
// a session whose context is cancelled; pgnotify cancels the statement and keeps the
// session.
var background = context.Background()

// An operation is one request of the program, from taking the turn to giving it back. A
// session has one and reuses it, so a request allocates nothing for it. Whoever has the
// turn owns the fields that do not say otherwise.
type operation struct {
	ctx  context.Context
	stop func() bool // detaches from ctx; nil if ctx cannot end

	tx         atomic.Pointer[tx] // the transaction that BeginTx began; nil outside
	cancel     atomic.Pointer[cancellation]
	onCancel   func()                     // cancelStatement, made once
	gate       cancelGate                 // between Cancel and the end of the request
	mark       uint64                     // events queued before the request
	goesOn     bool                       // the answer outlives the call: rows, COPY
	failed     bool                       // the last request failed: the server may be about to end the session
	outdated   bool                       // kept statements may have another meaning; see review
	tells      bool                       // those of other sessions may, once the transaction is committed; see tell
	commits    bool                       // the request may commit a transaction and begin another one
	rows       *rows                      // the open rows; for database/sql only, as copy
	skipping   *rows                      // those being closed
	copy       *copyStmt                  // the COPY under way, for database/sql only, which calls one method at a time
	unfinished atomic.Pointer[unfinished] // stays nil for most sessions; set once
}

// unfinished is what requests leave for later ones. Whoever has the turn owns its
// fields, except for gaveWay: a statement has no turn any more when it gives way.
type unfinished struct {
	gaveWay    []string // statements about to come back as prepared ones; for database/sql only
	unlistened []string // channels that UNLISTEN named in the transaction under way
	unclosed   []string // prepared statements that were closed while rows, which had the turn, were open

	owner weak.Pointer[sql.Conn] // the last that FromConn saw; see lendTo
}

func (o *operation) leave() *unfinished {
	if o.unfinished.Load() == nil {
		o.unfinished.CompareAndSwap(nil, new(unfinished))
	}
	return o.unfinished.Load()
}

// begin takes the turn for a request of database/sql. It fails, and sends nothing, if
// ctx has ended, the turn is held by open rows or a COPY, or the session is lost. Every
// successful begin is followed by end.
func (s *session) begin(ctx context.Context) error { return s.beginTraced(ctx, hasRequest) }

// beginTraced is begin for a request that leaves a trace of its own.
func (s *session) beginTraced(ctx context.Context, t trace) error {
	s.closeCancelledRows()
	if s.isUntold() {
		return s.beginUntold(ctx, t)
	}
	return s.take(ctx)
}

// beginStatement is begin for a statement that may be meant for a transaction that has
// already been rolled back. It then fails with a *refusedError.
func (s *session) beginStatement(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	err := s.refusal()
	if err != nil {
		s.end(&err)
	}
	return err
}

// take is begin for callers other than database/sql.
func (s *session) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.turn.Take(ctx); err != nil {
		if errors.Is(err, turn.ErrHeld) {
			return ErrBusy
		}
		return err
	}
	s.rollBackDoomed()
	err := ctx.Err() // it may have ended while we waited
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		s.freeTurn()
	}
	return err
}

// start is begin for a caller that has the turn; finish is its counterpart.
func (s *session) start(ctx context.Context) error {
	s.use()
	s.wire.BeginOperation()
	if s.wire.Loss() != nil {
		return s.lossError(nil)
	}
	s.review()
	s.op.mark, s.op.goesOn = s.mark(), false
	s.op.gate.open()
	s.attach(ctx)
	return nil
}

// beginLeased is begin for a handle's own requests.
func (s *session) beginLeased(ctx context.Context, lease uint64) error {
	if err := s.checkLease(lease); err != nil {
		return err
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	if err := s.checkLease(lease); err != nil { // it was returned while we waited
		s.detach()
		s.closeGate()
		s.freeTurn()
		return err
	}
	return nil
}

// end finishes the request whose outcome is in err, and replaces the error if the wire
// knows better. If the answer goes on, as rows or a COPY, end keeps the turn for it. It
// must be deferred directly, because it also recovers lib/pq's panics over messages
// that lib/pq cannot read.
func (s *session) end(err *error) {
	if p := recover(); p != nil {
		*err = s.caught(p)
	}
	if s.op.goesOn && *err == nil {
		s.flush(background, s.op.mark)
		s.turn.Hold()
		return
	}
	s.op.goesOn = false
	s.finish(err)
	s.rollBackDoomed()
	s.freeTurn()
}

// caught ends the session after a panic in lib/pq.
func (s *session) caught(p any) error {
	if e, ok := p.(runtime.Error); ok {
		p = e.Error()
	}
	s.wire.Abort(&libpqError{p})
	return driver.ErrBadConn
}

// run executes the request that start began, and finishes it.
func (s *session) run(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.caught(p)
		}
		s.finish(&err)
	}()
	return f()
}

// finish is end for a caller that keeps the turn.
func (s *session) finish(err *error) {
	if s.wire.Halfway() {
		s.sync()
	}
	canceled := s.detach()
	if !s.op.goesOn {
		s.closeGate()
	}
	s.flush(background, s.op.mark)
	s.wire.CheckFatal()
	if s.wire.Listened() {
		s.wantActive.Store(true)
	}
	s.agree(err)
	s.dropUnlistened()
	s.tell()
	s.op.failed = *err != nil
	*err = s.translate(*err, canceled)
	s.op.ctx = nil
}

// sync ends a request that was not executed after its statement was prepared: lib/pq could
// not encode an argument, say, or the context had ended.
func (s *session) sync() {
	timeout := time.AfterFunc(s.config.cancelTimeout(), func() { s.wire.Abort(errCancelTimeout) })
	defer timeout.Stop()
	s.wire.Sync()
}

// agree ends the session if lib/pq, which has returned err, has given it up or left part
// of the answer unread, because of a message that it did not expect.
func (s *session) agree(err *error) {
	left := !s.op.goesOn && s.wire.Unread()
	if !left && (*err == nil || s.wire.Sent() == 0 || s.pq.IsValid()) || s.wire.Loss() != nil {
		return
	}
	if *err == nil {
		*err = errUnread
	}
	s.wire.Abort(&libpqError{*err})
}

var errUnread = errors.New("it left part of the answer unread")

// translate replaces lib/pq's error with one that says what happened.
func (s *session) translate(err error, canceled bool) error {
	if err == nil {
		return nil
	}
	var server *pq.Error
	isServer := errors.As(err, &server)
	if loss := s.wire.Loss(); loss != nil && (!isServer || loss.Fatal != nil) || err == driver.ErrBadConn {
		err = s.lossError(err)
	} else if isServer && s.wire.Refused() {
		err = &copyError{err}
	}
	ctx := s.op.ctx
	if !canceled || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return &canceledError{ctx: ctx.Err(), cause: context.Cause(ctx), err: err}
}

// lossError describes the loss of the session to the request under way, before which the
// session was lost if err is nil. database/sql may retry the request elsewhere only if
// nothing of it was sent and no transaction was open. One of plain SQL does not count if
// it was lost before: database/sql retries only what does not belong to a sql.Conn, and
// must learn that the session is to be replaced.
func (s *session) lossError(err error) error {
	loss := s.wire.Loss()
	if loss == nil { // lib/pq gave up a session in which the wire finds nothing wrong
		if s.wire.Sent() == 0 {
			return err
		}
		s.wire.Abort(&libpqError{err})
		loss = s.wire.Loss()
	}
	e := newDisconnectError(loss)
	e.Sent = s.wire.Sent() > 0
	e.retry = !e.Sent && !s.inTx() && (err == nil || s.wire.Status() == 'I')
	return e
}
