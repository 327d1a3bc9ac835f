package pgnotify

import (
	"context"
	"database/sql/driver"
	"fmt"
)

// libpqStmt is lib/pq's prepared statement.
type libpqStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// libpqCopy is lib/pq's statement for COPY … FROM STDIN. Its Exec takes no context, and
// it has a method for raw data.
type libpqCopy interface {
	driver.Stmt
	CopyData(ctx context.Context, line string) (driver.Result, error)
}

// newStmt wraps what lib/pq prepared: a statement, or a COPY that is now under way.
func newStmt(s *session, inner driver.Stmt, query string, e effects) driver.Stmt {
	if st, ok := inner.(libpqStmt); ok {
		return &stmt{
			s: s, inner: st, name: s.wire.Prepared(), readOnly: isReadOnly(query), effects: e,
			ofPool: s.isUntold() && isCalledByPool(),
		}
	}
	s.detach() // each step has its own context
	s.op.goesOn = true
	st := &copyStmt{s: s, inner: inner.(libpqCopy)}
	st.guard = func() error {
		s.attach(st.ctx)
		return nil
	}
	s.op.copy = st
	return st
}

// A stmt is a prepared statement.
type stmt struct {
	s        *session
	inner    libpqStmt
	name     string // as the server knows it
	readOnly bool   // see isReadOnly
	effects  effects
	ofPool   bool // a sql.DB prepared it; known while the session is untold
}

var (
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
	_ driver.StmtExecContext  = (*copyStmt)(nil)
)

func (st *stmt) NumInput() int { return st.inner.NumInput() }

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (_ driver.Result, err error) {
	if err := st.begin(ctx); err != nil {
		return nil, err
	}
	defer st.s.end(&err)
	st.s.heed(st.effects, args)
	return st.inner.ExecContext(background, args)
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (_ driver.Rows, err error) {
	if err := st.begin(ctx); err != nil {
		return nil, err
	}
	defer st.s.end(&err)
	st.s.heed(st.effects, args)
	inner, err := st.inner.QueryContext(background, args)
	if err != nil {
		return nil, err
	}
	return newRows(st.s, inner, st.readOnly)
}

// begin is beginStatement. Outside a transaction, a statement of the pool is run for a
// borrower of its own.
func (st *stmt) begin(ctx context.Context) error {
	if st.ofPool && st.s.isUntold() && st.s.mayHaveLeft(st.s.addTrace(noTrace)) {
		if err := st.s.changeHands(); err != nil {
			return err
		}
	}
	return st.s.beginStatement(ctx)
}

// Exec implements driver.Stmt.
func (st *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(background, namedValues(args))
}

// Query implements driver.Stmt.
func (st *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(background, namedValues(args))
}

// Close frees the statement on the server, or leaves that to the next statement that is
// prepared, if rows of another one are open. If the session is lost there is nothing to
// free. database/sql may hold the pool's lock meanwhile, so Close has its own time
// limit.
func (st *stmt) Close() (err error) {
	if st.s.wire.Loss() != nil {
		return nil
	}
	ctx, stop := context.WithTimeout(background, st.s.config.cancelTimeout())
	defer stop()
	switch err := st.s.begin(ctx); {
	case err == ErrBusy:
		left := st.s.op.leave()
		left.unclosed = append(left.unclosed, st.name)
		return nil
	case err != nil:
		return err
	}
	defer st.s.end(&err)
	return st.inner.Close()
}

// closeUnclosed schedules the closing of statements that Close could not close.
func (s *session) closeUnclosed() {
	left := s.op.unfinished.Load()
	if left == nil {
		return
	}
	for _, name := range left.unclosed {
		s.wire.CloseLater(name)
	}
	left.unclosed = nil
}

// A copyStmt is a COPY … FROM STDIN under way. It holds the session's turn until Exec
// without arguments, or Close, ends it; both send what is buffered.
type copyStmt struct {
	s     *session
	inner libpqCopy
	ended bool

	ctx    context.Context // of the step under way
	guard  func() error    // has the step cancelled when ctx ends
	values []driver.Value  // of the row under way; reused for the next one
}

func (st *copyStmt) NumInput() int { return st.inner.NumInput() }

// ExecContext sends a row or, without arguments, ends the COPY. The values of a row have
// an order and no names.
func (st *copyStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	defer func() { clear(st.values) }()
	st.values = st.values[:0]
	for _, a := range args {
		if a.Name != "" {
			return nil, errNamedValue
		}
		st.values = append(st.values, a.Value)
	}
	last := len(args) == 0
	return st.run(ctx, last, func() (driver.Result, error) {
		res, err := st.inner.Exec(st.values) //nolint:staticcheck // lib/pq's COPY has no other
		if last && err != nil {
			_ = st.inner.Close() // after an error lib/pq leaves the COPY open and part of the answer unread
		}
		return res, err
	})
}

var errNamedValue = fmt.Errorf("%w: a row of COPY with sql.Named", ErrNotSupported)

// Exec implements driver.Stmt.
func (st *copyStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(background, namedValues(args))
}

// CopyData sends lines of raw COPY data, as lib/pq's statement does for users of
// sql.Conn.Raw.
func (st *copyStmt) CopyData(ctx context.Context, line string) (driver.Result, error) {
	return st.run(ctx, false, func() (driver.Result, error) {
		return st.inner.CopyData(background, line)
	})
}

// Query implements driver.Stmt; COPY returns no rows.
func (st *copyStmt) Query([]driver.Value) (driver.Rows, error) { return nil, ErrNotSupported }

// run executes one step of the COPY; last says that it is the end. Most rows only go
// into lib/pq's buffer. The context guards a step from the moment it writes to the
// network, which may block.
func (st *copyStmt) run(ctx context.Context, last bool, step func() (driver.Result, error)) (_ driver.Result, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if st.ended {
		return step()
	}
	st.ended = last
	st.s.op.goesOn = !last
	if st.ctx = ctx; last {
		_ = st.guard() // it waits for the answer
	} else {
		st.s.wire.OnWrite(st.guard)
	}
	defer st.endStep(&err)
	return step()
}

// endStep finishes a step. If a step fails, the COPY keeps the turn until Close ends
// it.
func (st *copyStmt) endStep(err *error) {
	if p := recover(); p != nil {
		*err = st.s.caught(p)
	}
	st.ctx = nil
	st.s.wire.OnWrite(nil)
	st.s.finish(err)
	if st.ended {
		st.s.op.copy = nil
		st.s.rollBackDoomed()
		st.s.freeTurn()
	}
}

// Close ends the COPY, unless Exec has done so.
func (st *copyStmt) Close() error {
	if st.ended {
		return nil
	}
	_, err := st.run(background, true, func() (driver.Result, error) { return nil, st.inner.Close() })
	return err
}
