package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
)

// A tx is a transaction. Statements in it that have no context of their own use that of
// BeginTx.
//
// A tx is doomed from the end of its context, or from the request to end it, until its
// rollback. When the context ends, database/sql asks for the rollback on another
// goroutine. Until it does, it still passes statements to the transaction. From then on
// it tells the program that the transaction is done, and the program runs other
// statements on the session. The driver cannot tell the two kinds apart. It rolls back
// at the first opportunity, and until database/sql asks for the rollback it runs
// neither kind: those of the transaction would be committed by themselves.
type tx struct {
	s     *session
	ctx   context.Context // of BeginTx; database/sql passes none to Commit and Rollback
	inner driver.Tx
	over  bool          // it has ended on the server; guarded by the turn
	left  bool          // COMMIT has failed and left it open; guarded by the turn
	asked atomic.Bool   // database/sql has asked for its end
	ended chan struct{} // closed when asked is set
}

// newTx registers a transaction that has begun. The caller has the turn.
func newTx(ctx context.Context, s *session, inner driver.Tx) *tx {
	t := &tx{s: s, ctx: ctx, inner: inner, ended: make(chan struct{})}
	s.op.tx.Store(t)
	return t
}

func (t *tx) doomed() bool { return t.ctx.Err() != nil || t.asked.Load() }

// Commit rolls back if it cannot commit: when the context has ended, or a COPY is
// unfinished.
func (t *tx) Commit() error {
	err := t.ctx.Err()
	if err == nil && t.copyUnderWay() != nil {
		err = ErrBusy
	}
	if err == nil {
		err = t.s.begin(t.ctx)
	}
	if err != nil {
		_ = t.Rollback()
		return err
	}
	return t.finish(func() error {
		if t.over { // the context ended while we waited for the turn
			return t.ctx.Err()
		}
		return t.commit()
	})
}

// copyUnderWay returns the COPY of this transaction; nil if there is none. database/sql
// may ask for a rollback late, when the session is in another transaction.
func (t *tx) copyUnderWay() *copyStmt {
	if t.s.op.tx.Load() != t {
		return nil
	}
	return t.s.op.copy
}

// commit replaces lib/pq's Commit, which gives the session up if COMMIT was cancelled
// before it began. The server then has a failed transaction, which can be rolled back.
func (t *tx) commit() error {
	if t.s.wire.Status() != 'T' {
		return t.inner.Commit() // has the right error
	}
	_, err := t.s.pq.ExecContext(background, "COMMIT", nil)
	if err == nil && t.s.wire.Undone() {
		err = errors.New("pgnotify: COMMIT has rolled the transaction back")
	}
	t.left = err != nil && t.s.wire.Status() == 'E'
	return err
}

// Rollback also ends a COPY that was given up. If the context has ended, it waits no
// longer than a cancelled statement may take.
func (t *tx) Rollback() error {
	if st := t.copyUnderWay(); st != nil {
		_ = st.Close()
	}
	ctx := t.ctx
	if ctx.Err() != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(background, t.s.config.cancelTimeout())
		defer stop()
	}
	if err := t.s.begin(ctx); err != nil {
		t.ask() // whoever has the turn will roll back
		return err
	}
	return t.finish(func() error {
		if t.over {
			return nil
		}
		return t.inner.Rollback()
	})
}

func (t *tx) ask() {
	if !t.asked.Swap(true) {
		close(t.ended)
	}
}

// finish ends the transaction, for which the caller has begun a request.
func (t *tx) finish(f func() error) (err error) {
	defer t.ask()
	defer t.s.end(&err)
	t.s.op.tx.CompareAndSwap(t, nil)
	err = f()
	if t.over = !t.left; t.left {
		t.s.op.tx.Store(t) // end rolls it back
	}
	return err
}

// rollBackDoomed rolls a doomed transaction back, before a request or after one. The
// caller has the turn, and no request is under way.
func (s *session) rollBackDoomed() {
	t := s.op.tx.Load()
	if t == nil || !t.doomed() && !t.left {
		return
	}
	if !t.over && s.wire.Status() != 'I' {
		ctx, stop := context.WithTimeout(background, s.config.cancelTimeout())
		defer stop()
		if s.start(ctx) != nil {
			return
		}
		_ = s.run(t.inner.Rollback) // after an error the session is lost, or not reused
	}
	if t.over = true; t.asked.Load() {
		s.op.tx.CompareAndSwap(t, nil)
	}
}

// refusal returns the error for a statement that came after a transaction was rolled
// back but before database/sql had asked for that, or nil.
func (s *session) refusal() error {
	t := s.op.tx.Load()
	if t == nil || !t.doomed() {
		return nil
	}
	return &refusedError{context.Cause(t.ctx)}
}

// A refusedError says what database/sql says once it knows that a transaction's context
// has ended.
type refusedError struct{ cause error }

func (e *refusedError) Error() string {
	return fmt.Sprintf("pgnotify: %v (%v): the statement was not sent", sql.ErrTxDone, e.cause)
}

func (e *refusedError) Unwrap() error { return sql.ErrTxDone }
