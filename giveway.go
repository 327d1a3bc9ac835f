package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"time"
)

// While the driver runs a statement, database/sql holds the lock of the session,
// which the goroutine needs that asks for the rollback of a transaction whose
// context has ended. So a statement that has to wait for it gives way: it returns
// driver.ErrSkip, on which database/sql frees the lock, takes it again, has the
// statement prepared, frees and takes it again, and runs it. A statement of the
// transaction itself waits in vain and is refused: database/sql asks for the
// rollback only after it. Who calls ExecContext within sql.Conn.Raw gets
// driver.ErrSkip itself, as from any driver.

// lockPatience is how long the lock is held to make sure that who waits for it
// is next: a sync.Mutex is handed over when its waiter has waited for 1 ms. The
// rest is for a busy machine.
const lockPatience = 5 * time.Millisecond

// giveWay returns the error for database/sql of a statement that ended with err.
func (s *session) giveWay(query string, err error) error {
	var refused *refusedError
	if !errors.As(err, &refused) {
		return err
	}
	left := s.op.leave()
	left.gaveWay = append(left.gaveWay, query)
	time.Sleep(lockPatience)
	return driver.ErrSkip
}

// A deferredStmt is what a statement that gave way is prepared as.
type deferredStmt struct {
	c     *Conn
	query string
}

var (
	_ driver.StmtExecContext  = (*deferredStmt)(nil)
	_ driver.StmtQueryContext = (*deferredStmt)(nil)
)

// deferred returns the statement that gave way, when database/sql comes back with
// it, or nil.
func (c *Conn) deferred(query string) driver.Stmt {
	left := c.s.op.unfinished
	if left == nil {
		return nil
	}
	i := slices.Index(left.gaveWay, query) // not whatever else is prepared meanwhile
	if i < 0 {
		return nil
	}
	left.gaveWay = slices.Delete(left.gaveWay, i, i+1)
	time.Sleep(lockPatience)
	return &deferredStmt{c, query}
}

// NumInput implements driver.Stmt: it is the server's to count.
func (*deferredStmt) NumInput() int { return -1 }

// Close implements driver.Stmt.
func (*deferredStmt) Close() error { return nil }

func (st *deferredStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.c.exec(ctx, st.query, args)
}

func (st *deferredStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.c.query(ctx, st.query, args)
}

// Exec implements driver.Stmt.
func (st *deferredStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(background, namedValues(args))
}

// Query implements driver.Stmt.
func (st *deferredStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(background, namedValues(args))
}
