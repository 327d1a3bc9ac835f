package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify"
)

// K5: 100 cancelled queries on a pool of one are answered by one backend, whoever
// asked for their end and by whatever kind of request.
func TestCancelledQueriesKeepTheSession(t *testing.T) {
	single(t, func(t *testing.T, db *sql.DB) {
		const count = 100
		server := open(t, dsn(t))
		pid := queryValue[uint32](t, db, "select pg_backend_pid()")
		table := sleepyTable(t)
		cancelled := 0
		for i := 0; cancelled < count; i++ {
			for name, q := range lastingRequests {
				if q.inTx || q.plain || q.event != "PgSleep" {
					continue
				}
				timeout := time.Minute
				if i%2 == 0 {
					timeout = 20 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(testContext(t), timeout)
				var tx *sql.Tx
				done := async(t, func() error {
					if i%4 < 2 {
						return q.run(ctx, db, table)
					}
					var err error
					if tx, err = db.BeginTx(ctx, nil); err != nil {
						return err
					}
					return q.run(ctx, tx, table)
				})
				if i%2 == 1 {
					untilWaiting(t, server, pid, "PgSleep")
					cancel()
				}
				err := recv(t, done)
				cancel()
				if isQueryCanceled(err) {
					cancelled++
				}
				if !isQueryCanceled(err) && ctx.Err() == nil || !errors.Is(err, ctx.Err()) || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("%s: %v", name, err)
				}
				if tx != nil {
					if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
						t.Errorf("%s: ROLLBACK: %v", name, err)
					}
				}
				if again := queryValue[uint32](t, db, "select pg_backend_pid()"); again != pid {
					t.Fatalf("%s, round %d: session %d became %d", name, i, pid, again)
				}
			}
		}
	})
}

// K7: statements with a context that is over leave no row, on a session and on a
// pool.
func TestNoRowForADeadContext(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		const count = 50
		table := uniqueName("dead")
		mustExec(t, db, "create table "+table+" (round int)")
		t.Cleanup(func() { mustExec(t, open(t, dsn(t)), "drop table "+table) })
		dead, cancel := context.WithCancel(testContext(t))
		cancel()
		expired, cancel := context.WithDeadline(testContext(t), time.Now().Add(-time.Second))
		defer cancel()
		insert := "insert into " + table + " values ($1)"
		st, err := s.PrepareContext(testContext(t), insert)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		tx := func(begin, exec context.Context) error {
			tx, err := db.BeginTx(begin, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			return execError(tx.ExecContext(exec, insert, 1))
		}
		for i := range count {
			for _, ctx := range []context.Context{dead, expired} {
				for name, err := range map[string]error{
					"conn":     execError(s.ExecContext(ctx, insert, i)),
					"query":    scan(s.QueryRowContext(ctx, insert+" returning 'x'", i)),
					"prepared": execError(st.ExecContext(ctx, i)),
					"pool":     execError(db.ExecContext(ctx, insert, i)),
					"begin":    tx(ctx, testContext(t)),
					"tx":       tx(testContext(t), ctx),
				} {
					if !errors.Is(err, ctx.Err()) || errors.Is(err, driver.ErrBadConn) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		}
		if n := queryValue[int](t, s, "select count(*) from "+table); n != 0 {
			t.Errorf("%d rows", n)
		}
		if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
			t.Errorf("session %d became %d", s.pc.PID(), pid)
		}
	})
}

// K8: a context that ends while its transaction is idle rolls back, and costs no
// session.
func TestContextEndsAnIdleTransaction(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		db.SetMaxOpenConns(1)
		table := uniqueName("idle")
		mustExec(t, db, "create table "+table+" (word text)")
		t.Cleanup(func() { mustExec(t, open(t, dsn(t)), "drop table "+table) })
		pid := queryValue[uint32](t, db, "select pg_backend_pid()")
		for name, end := range map[string]func(*sql.Tx) error{
			"Rollback": (*sql.Tx).Rollback,
			"Commit":   (*sql.Tx).Commit,
			"nothing":  func(*sql.Tx) error { return sql.ErrTxDone },
		} {
			for range 20 {
				ctx, cancel := context.WithCancel(testContext(t))
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				mustExec(t, tx, "insert into "+table+" values ('x')")
				cancel()
				if err := end(tx); err != nil && !errors.Is(err, sql.ErrTxDone) && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
				if again := queryValue[uint32](t, db, "select pg_backend_pid()"); again != pid {
					t.Fatalf("%s: session %d became %d", name, pid, again)
				}
			}
		}
		if n := queryValue[int](t, db, "select count(*) from "+table); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

// K8: the same on a session that is kept.
func TestContextEndsAnIdleTransactionOfASession(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for name, end := range map[string]func(*sql.Tx) error{
			"Rollback": (*sql.Tx).Rollback,
			"Commit":   (*sql.Tx).Commit,
			"nothing":  func(*sql.Tx) error { return sql.ErrTxDone },
		} {
			for range 20 {
				ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
				tx, err := s.BeginTx(ctx, nil)
				if err == nil {
					<-ctx.Done()
					err = end(tx)
				}
				cancel()
				if err != nil && !errors.Is(err, sql.ErrTxDone) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", name, err)
				}
				until(t, "the transaction is over", func() bool {
					return s.pc.TransactionStatus() == pgnotify.TransactionIdle
				})
				if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
					t.Fatalf("%s: session %d became %d", name, s.pc.PID(), pid)
				}
			}
		}
	})
}

// A countingContext counts who watches it.
type countingContext struct {
	context.Context
	watchers atomic.Int32
}

// AfterFunc is what [context.AfterFunc] looks for, and the contexts made of this
// one.
func (c *countingContext) AfterFunc(f func()) (stop func() bool) {
	c.watchers.Add(1)
	inner := context.AfterFunc(c.Context, func() {
		c.watchers.Add(-1)
		f()
	})
	return func() bool {
		stopped := inner()
		if stopped {
			c.watchers.Add(-1)
		}
		return stopped
	}
}

// K13: a request that returns before its context ends leaves nothing behind that
// watches the context. Nor does a cancelled one leave a goroutine, and db.Close is
// well after it. The test is not parallel: it looks at all goroutines of the
// process.
func TestNothingIsLeftOfARequest(t *testing.T) {
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				table := sleepyTable(t)
				server := open(t, dsn(t))
				mustExec(t, server, "select 1")
				before := goleak.IgnoreCurrent()
				db := sql.OpenDB(connector(t, m.dsn))
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				leaveEarly(t, s)
				for _, name := range []string{"exec", "query row", "prepared query", "in the middle of rows"} {
					q := lastingRequests[name]
					ctx, cancel := context.WithCancel(testContext(t))
					c := &cancelling{session: s, lasting: q, t: t, server: server, table: table}
					done := c.under(ctx)
					cancel()
					c.wantContextError(recv(t, done), context.Canceled)
				}
				if err := s.Close(); err != nil {
					t.Errorf("closing the connection: %v", err)
				}
				if err := db.Close(); err != nil {
					t.Errorf("closing the pool: %v", err)
				}
				if err := goleak.Find(before); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// leaveEarly makes requests under a context that goes on.
func leaveEarly(t *testing.T, s *session) {
	t.Helper()
	ctx := &countingContext{Context: testContext(t)}
	mustDo := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for range 10 {
		mustDo(execError(s.ExecContext(ctx, "select 1")))
		mustDo(scan(s.QueryRowContext(ctx, "select generate_series(1, 1000)")))
		rows, err := s.QueryContext(ctx, "select $1::int", 1)
		mustDo(err)
		mustDo(rows.Close())
		tx, err := s.BeginTx(ctx, nil)
		mustDo(err)
		mustDo(execError(tx.ExecContext(ctx, "select 1")))
		mustDo(tx.Rollback())
		mustDo(s.PingContext(ctx))
		mustDo(s.pc.Cancel(ctx))
		if _, err := s.ExecContext(ctx, "nonsense"); err == nil {
			t.Error("no error")
		}
	}
	until(t, "nobody watches the context", func() bool { return ctx.watchers.Load() == 0 })
}
