package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
)

// A tx is a transaction, and within it statements without a context of their own
// have that of BeginTx.
//
// It is doomed from the end of its context, or from the request to end it, to its
// rollback. When the context ends, database/sql asks for the rollback on a
// goroutine of its own. Before it does, it still takes statements for the
// transaction; from then on it tells the program that the transaction is done,
// and the program runs other statements on the session. The driver cannot tell
// the ones from the others. It rolls back at the first occasion, and runs neither
// before it is asked: not the ones, which would be committed by themselves, and
// not the others.
type tx struct {
	s     *session
	ctx   context.Context // of BeginTx; database/sql passes none at the end
	inner driver.Tx
	over  bool          // it has ended on the server; for who has the turn
	left  bool          // COMMIT has failed and left it open; likewise
	asked atomic.Bool   // database/sql has asked for the end
	ended chan struct{} // closed when that was answered
}

// newTx begins a transaction on the session, whose turn the caller has.
func newTx(ctx context.Context, s *session, inner driver.Tx) *tx {
	t := &tx{s: s, ctx: ctx, inner: inner, ended: make(chan struct{})}
	s.op.tx.Store(t)
	return t
}

func (t *tx) doomed() bool { return t.ctx.Err() != nil || t.asked.Load() }

// Commit rolls back where it cannot commit: when the context has ended, when a
// COPY is not finished.
func (t *tx) Commit() error {
	err := t.ctx.Err()
	if err == nil && t.s.op.copy != nil {
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

// commit is lib/pq's Commit, which gives the session up when COMMIT was cancelled before
// it began: the server then has a failed transaction, which can be rolled back.
func (t *tx) commit() error {
	if t.s.wire.Status() != 'T' {
		return t.inner.Commit() // knows what to say
	}
	_, err := t.s.pq.ExecContext(background, "COMMIT", nil)
	if err == nil && t.s.wire.Undone() {
		err = errors.New("pgnotify: COMMIT has rolled the transaction back")
	}
	t.left = err != nil && t.s.wire.Status() == 'E'
	return err
}

// Rollback ends a COPY that was given up, too. Where the context has ended it
// waits for no longer than a cancelled statement may.
func (t *tx) Rollback() error {
	if st := t.s.op.copy; st != nil {
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

// finish ends the transaction. The caller has begun a request.
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

// rollBackDoomed ends a doomed transaction before a request, and after one. The
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

// refusal returns the error of a statement that came when a transaction had been
// rolled back and database/sql had not asked for that yet, or nil.
func (s *session) refusal() error {
	t := s.op.tx.Load()
	if t == nil || !t.doomed() {
		return nil
	}
	return &refusedError{context.Cause(t.ctx)}
}

// A refusedError says what database/sql says when it knows that a transaction's
// context has ended.
type refusedError struct{ cause error }

func (e *refusedError) Error() string {
	return fmt.Sprintf("pgnotify: %v (%v): the statement was not sent", sql.ErrTxDone, e.cause)
}

func (e *refusedError) Unwrap() error { return sql.ErrTxDone }
