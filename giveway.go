package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"time"
)

// While the driver runs a statement, database/sql holds the session's lock. The
// goroutine that asks for the rollback of a transaction whose context has ended needs
// that lock. So a statement that must wait for the rollback gives way: it returns
// driver.ErrSkip. database/sql then releases and retakes the lock, has the statement
// prepared, releases and retakes the lock, and runs the statement. A statement of the
// transaction itself waits in vain and is refused: database/sql asks for the rollback
// only after it. Callers of ExecContext inside sql.Conn.Raw get driver.ErrSkip itself,
// as from any driver.

// lockPatience is how long the lock is held to make sure that its waiter gets it next:
// a sync.Mutex is handed over once its waiter has waited for 1 ms. The rest is for a
// busy machine.
const lockPatience = 5 * time.Millisecond

// giveWay returns what database/sql gets for a statement that ended with err.
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

// A deferredStmt is the prepared form of a statement that gave way.
type deferredStmt struct {
	c     *Conn
	query string
}

var (
	_ driver.StmtExecContext  = (*deferredStmt)(nil)
	_ driver.StmtQueryContext = (*deferredStmt)(nil)
)

// deferred returns the statement that gave way when database/sql comes back with it, or
// nil.
func (c *Conn) deferred(query string) driver.Stmt {
	left := c.s.op.unfinished.Load()
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

// NumInput implements driver.Stmt; -1 leaves the counting to the server.
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
