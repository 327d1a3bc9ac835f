package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// A place is where statements run: a session, or a transaction on it.
type place interface {
	execer
	queryer
	rowsQueryer
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

const longSleep = "select pg_sleep(60)"

// A lasting request goes on until it is cancelled.
type lasting struct {
	event string // of the server, which it waits in
	run   func(ctx context.Context, p place, table string) error

	inTx  bool // it needs a transaction
	plain bool // database/sql tells the end of the context in its own words
}

// The table that they are given has a trigger which sleeps over a row that says
// so.
var lastingRequests = map[string]lasting{
	"exec": {event: "PgSleep", run: func(ctx context.Context, p place, _ string) error {
		return execError(p.ExecContext(ctx, longSleep))
	}},
	"exec with arguments": {event: "PgSleep", run: func(ctx context.Context, p place, table string) error {
		return execError(p.ExecContext(ctx, "insert into "+table+" values ($1)", "sleep"))
	}},
	"query row": {event: "PgSleep", run: func(ctx context.Context, p place, _ string) error {
		return scan(p.QueryRowContext(ctx, longSleep))
	}},
	"query row with arguments": {event: "PgSleep", run: func(ctx context.Context, p place, _ string) error {
		return scan(p.QueryRowContext(ctx, "select pg_sleep($1)", 60))
	}},
	"prepared exec": {event: "PgSleep", run: onStmt(func(ctx context.Context, st *sql.Stmt) error {
		return execError(st.ExecContext(ctx, 60))
	})},
	"prepared query": {event: "PgSleep", run: onStmt(func(ctx context.Context, st *sql.Stmt) error {
		return readRows(st.QueryContext(ctx, 60))
	})},
	"in the middle of rows": {event: "PgSleep", plain: true, run: func(ctx context.Context, p place, _ string) error {
		return countRows(ctx, p, 0, `select repeat('x', 100000), case when n = 10 then pg_sleep(60) end
			from generate_series(1, 20) n`)
	}},
	"rows that are read slowly": {event: "ClientWrite", plain: true, run: func(ctx context.Context, p place, _ string) error {
		return countRows(ctx, p, time.Millisecond, "select repeat('x', 1000000) from generate_series(1, 100000)")
	}},
	"copy": {event: "ClientRead", inTx: true, plain: true, run: func(ctx context.Context, p place, table string) error {
		return copyRows(ctx, p, table, func(st *sql.Stmt) error {
			for ctx.Err() == nil { // the server looks for a cancel request when data comes
				if _, err := st.ExecContext(ctx, strings.Repeat("x", 50000)); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return ctx.Err()
		})
	}},
	"end of copy": {event: "PgSleep", inTx: true, run: func(ctx context.Context, p place, table string) error {
		return copyRows(ctx, p, table, func(st *sql.Stmt) error {
			if _, err := st.ExecContext(ctx, "sleep"); err != nil {
				return err
			}
			return execError(st.ExecContext(ctx))
		})
	}},
}

func onStmt(f func(ctx context.Context, st *sql.Stmt) error) func(context.Context, place, string) error {
	return func(ctx context.Context, p place, _ string) error {
		st, err := p.PrepareContext(ctx, "select pg_sleep($1)")
		if err != nil {
			return err
		}
		defer st.Close()
		return f(ctx, st)
	}
}

// countRows reads rows, with a pause after each.
func countRows(ctx context.Context, p place, pause time.Duration, query string) error {
	rows, err := p.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
		time.Sleep(pause)
	}
	if n == 0 {
		return fmt.Errorf("no row was read: %w", rows.Err())
	}
	return rows.Err()
}

func copyRows(ctx context.Context, p place, table string, f func(st *sql.Stmt) error) error {
	st, err := p.PrepareContext(ctx, "copy "+table+" from stdin")
	if err != nil {
		return err
	}
	defer st.Close()
	return f(st)
}

// sleepyTable returns the table of lasting requests.
func sleepyTable(t *testing.T) (table string) {
	t.Helper()
	server := open(t, dsn(t))
	table = uniqueName("sleepy")
	mustExec(t, server, "create table "+table+" (word text)")
	mustExec(t, server, "create function "+table+`() returns trigger language plpgsql as
		'begin perform pg_sleep(60); return new; end'`)
	mustExec(t, server, "create trigger sleepy before insert on "+table+` for each row
		when (new.word = 'sleep') execute function `+table+"()")
	t.Cleanup(func() {
		mustExec(t, server, "drop table "+table)
		mustExec(t, server, "drop function "+table)
	})
	return table
}

// A cancelling is a lasting request on a session, which a test has cancelled.
type cancelling struct {
	*session
	lasting
	t      *testing.T
	server *sql.DB // to look at the session
	table  string
	tx     *sql.Tx // nil outside
}

// eachLasting runs a test with each kind of lasting request, within a transaction
// and outside.
func eachLasting(t *testing.T, f func(c *cancelling)) {
	t.Helper()
	table := sleepyTable(t)
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		server := open(t, dsn(t))
		for name, q := range lastingRequests {
			for _, inTx := range []bool{false, true} {
				if q.inTx && !inTx {
					continue
				}
				t.Run(fmt.Sprintf("%s/tx=%v", name, inTx), func(t *testing.T) {
					c := &cancelling{session: s, lasting: q, t: t, server: server, table: table}
					if inTx {
						c.tx = mustBegin(t, s)
					}
					f(c)
				})
			}
		}
	})
}

// start begins the request.
func (c *cancelling) start(ctx context.Context) <-chan error {
	p := place(c.session)
	if c.tx != nil {
		p = c.tx
	}
	return async(c.t, func() error { return c.run(ctx, p, c.table) })
}

// under begins the request and returns when the server is in the midst of it.
func (c *cancelling) under(ctx context.Context) <-chan error {
	c.t.Helper()
	done := c.start(ctx)
	untilWaiting(c.t, c.server, c.pc.PID(), c.event)
	return done
}

// wantUsable rolls back, and checks that the session is the one it was.
func (c *cancelling) wantUsable() {
	c.t.Helper()
	if c.tx != nil {
		if err := c.tx.Rollback(); err != nil {
			c.t.Errorf("ROLLBACK: %v", err)
		}
	}
	if status := c.pc.TransactionStatus(); status != pgnotify.TransactionIdle {
		c.t.Errorf("the session is %v", status)
	}
	if pid := queryValue[uint32](c.t, c.session, "select pg_backend_pid()"); pid != c.pc.PID() {
		c.t.Errorf("session %d became %d", c.pc.PID(), pid)
	}
}

// wantContextError checks the error of a request whose context ended.
func (c *cancelling) wantContextError(err error, want ...error) {
	c.t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			c.t.Errorf("got %v, want %v", err, w)
		}
	}
	if errors.Is(err, driver.ErrBadConn) || pgnotify.IsDisconnect(err) {
		c.t.Errorf("the session is given up: %v", err)
	}
	if !c.plain && serverError(c.t, err).Code != "57014" {
		c.t.Errorf("the server's error is missing: %v", err)
	}
}

// mostlyWithin returns a function for how long things took. In the end, half of them
// must have taken no longer than limit, and none five times as long: beside other tests
// a single one may have to wait for a processor.
func mostlyWithin(t *testing.T, limit time.Duration) func(took time.Duration) {
	var (
		mu  sync.Mutex
		all []time.Duration
	)
	t.Cleanup(func() { // when the parallel subtests have ended
		if len(all) == 0 {
			return
		}
		slices.Sort(all)
		middle, last := all[len(all)/2], all[len(all)-1]
		t.Logf("it took %v (median of %d, up to %v)", middle, len(all), last)
		if middle > limit || last > 5*limit {
			t.Errorf("it took %v, up to %v; want %v", middle, last, limit)
		}
	})
	return func(took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, took)
	}
}

// K1, K12: Cancel ends whatever the session is doing. The error is the server's
// alone, and the session works after it.
func TestCancelEndsTheStatement(t *testing.T) {
	took := mostlyWithin(t, time.Second)
	eachLasting(t, func(c *cancelling) {
		ctx := testContext(c.t)
		done := c.under(ctx)
		began := time.Now()
		if err := c.pc.Cancel(ctx); err != nil {
			c.t.Errorf("Cancel: %v", err)
		}
		err := recv(c.t, done)
		took(time.Since(began))
		if serverError(c.t, err).Code != "57014" || errors.Is(err, context.Canceled) || pgnotify.IsDisconnect(err) {
			c.t.Errorf("the statement's error: %v", err)
		}
		c.wantUsable()
	})
}

// K1: COMMIT of a transaction whose statement was cancelled fails, and costs no
// session.
func TestCommitAfterCancel(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx := testContext(t)
		tx := mustBegin(t, s)
		done := async(t, func() error { return execError(tx.ExecContext(ctx, longSleep)) })
		untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
		if err := s.pc.Cancel(ctx); err != nil {
			t.Error(err)
		}
		if err := recv(t, done); serverError(t, err).Code != "57014" {
			t.Errorf("the statement: %v", err)
		}
		if err := tx.Commit(); err == nil || pgnotify.IsDisconnect(err) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("COMMIT: %v", err)
		}
		if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
			t.Errorf("session %d became %d", s.pc.PID(), pid)
		}
	})
}

// K1, K11: COMMIT is cancelled as any other statement, by Cancel and by the end of
// the transaction's context. Then the transaction is rolled back, the server says
// so, and the session stays.
func TestCancelOfCommit(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		m.slowCommit(t, time.Minute)
		for _, by := range []string{"context", "Cancel"} {
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			tx := mustBegin(t, beginsWith{s.Conn, ctx})
			m.mark(t, tx, "slow")
			done := async(t, tx.Commit)
			untilWaiting(t, m.server, s.pc.PID(), "PgSleep")
			if by == "context" {
				cancel()
			} else if err := s.pc.Cancel(ctx); err != nil {
				t.Errorf("Cancel: %v", err)
			}
			err := recv(t, done)
			if !isQueryCanceled(err) || pgnotify.IsDisconnect(err) || errors.Is(err, context.Canceled) != (by == "context") {
				t.Errorf("COMMIT, by %s: %v", by, err)
			}
			wantIdle(t, s)
		}
		m.want(t)
	})
}

// K10, K11, K12: the end of a context ends what the session is doing. The error
// is the context's and the server's, and the session stays.
func TestContextEndsTheStatement(t *testing.T) {
	eachLasting(t, func(c *cancelling) {
		ctx, cancel := context.WithCancel(testContext(c.t))
		defer cancel()
		done := c.under(ctx)
		cancel()
		c.wantContextError(recv(c.t, done), context.Canceled)
		c.wantUsable()
	})
}

// K11: the cause of a context's end is in the error too, unless database/sql has
// the last word.
func TestCauseIsToldByTheStatement(t *testing.T) {
	eachLasting(t, func(c *cancelling) {
		if c.plain {
			return
		}
		enough := errors.New("enough of it")
		ctx, cancel := context.WithCancelCause(testContext(c.t))
		defer cancel(nil)
		done := c.under(ctx)
		cancel(enough)
		c.wantContextError(recv(c.t, done), context.Canceled, enough)
		c.wantUsable()
	})
}

// K10, K11: the same for a deadline. One that has passed before the request was
// sent tells nothing of the server; then there is another attempt.
func TestDeadlineEndsTheStatement(t *testing.T) {
	eachLasting(t, func(c *cancelling) {
		if c.inTx { // what is buffered of a COPY would be sent at its end
			return
		}
		for length := 50 * time.Millisecond; ; length *= 2 {
			ctx, cancel := context.WithTimeout(testContext(c.t), length)
			err := recv(c.t, c.start(ctx))
			cancel()
			_, sent := asError[*pq.Error](err)
			if sent || c.plain || length > time.Second || !errors.Is(err, context.DeadlineExceeded) {
				c.wantContextError(err, context.DeadlineExceeded)
				break
			}
		}
		c.wantUsable()
	})
}
