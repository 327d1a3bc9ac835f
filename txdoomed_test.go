package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// When a transaction's context ends, database/sql rolls back on a goroutine of its
// own, and Rollback says meanwhile that it is done. What the session runs next
// must not be a part of that transaction.
func TestStatementAfterATransactionThatTimedOut(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		table := uniqueName("doomed")
		mustExec(t, db, "create table "+table+" (round int)")
		defer mustExec(t, db, "drop table "+table)
		const rounds = 50
		for round := range rounds {
			ctx, cancel := context.WithTimeout(testContext(t), 3*time.Millisecond)
			tx, err := s.BeginTx(ctx, nil)
			if err == nil {
				_, err = tx.ExecContext(ctx, "select pg_sleep(30)")
				if e := tx.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) {
					t.Error(e)
				}
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			insert := "insert into " + table + " values ($1)"
			until(t, "the session takes statements", func() bool {
				_, err := s.ExecContext(testContext(t), insert, round)
				if errors.Is(err, sql.ErrTxDone) {
					return false // it came before the rollback, and said so
				}
				if err != nil {
					t.Error(err)
				}
				return true
			})
			cancel()
		}
		if got := queryValue[int](t, db, "select count(*) from "+table); got != rounds {
			t.Errorf("%d of %d rows are there", got, rounds)
		}
	})
}

// A tappedConn calls a function when something has been read.
type tappedConn struct {
	net.Conn
	tap *atomic.Pointer[func()]
}

func (c tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if f := c.tap.Load(); f != nil && n > 0 {
		(*f)()
	}
	return n, err
}

// tapped returns a session, and calls what is in tap when an answer has come and
// nobody has seen it yet.
func tapped(t *testing.T, m mode, active bool) (s *session, tap *atomic.Pointer[func()]) {
	t.Helper()
	tap = new(atomic.Pointer[func()])
	s = take(t, open(t, m.dsn, func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return tappedConn{conn, tap}, err
		}
	}))
	if active {
		s.pc.Activate()
	}
	return s, tap
}

// eachTapped runs a test over each way to the server.
func eachTapped(t *testing.T, f func(t *testing.T, s *session, tap *atomic.Pointer[func()])) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				s, tap := tapped(t, m, active)
				f(t, s, tap)
			})
		}
	}
}

// The context ends when BEGIN has been answered, so there is a transaction which is
// rolled back at once. What runs in it with another context must not be
// committed by itself.
func TestStatementOfATransactionWhoseBeginTimedOut(t *testing.T) {
	eachTapped(t, func(t *testing.T, s *session, tap *atomic.Pointer[func()]) {
		m := newMarks(t)
		for range 30 {
			ctx, cancel := context.WithCancel(testContext(t))
			end := func() { cancel() }
			tap.Store(&end)
			err := pgnotify.InTx(ctx, s.Conn, nil, func(tx *sql.Tx) error {
				tap.Store(nil)
				_, err := tx.ExecContext(testContext(t), "insert into "+m.table+" values ('leaked')")
				if err == nil {
					t.Error("a statement of a transaction that is over")
				}
				return err
			})
			tap.Store(nil)
			if !errors.Is(err, context.Canceled) && !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			mustExec(t, s, "select 1")
			cancel()
		}
		m.want(t)
	})
}

// The context ends when a statement has been answered, and the next one has
// another context.
func TestStatementAfterTheLastOfATransaction(t *testing.T) {
	eachTapped(t, func(t *testing.T, s *session, tap *atomic.Pointer[func()]) {
		m := newMarks(t)
		for range 30 {
			ctx, cancel := context.WithCancel(testContext(t))
			err := pgnotify.InTx(ctx, s.Conn, nil, func(tx *sql.Tx) error {
				end := func() { cancel() }
				tap.Store(&end)
				defer tap.Store(nil)
				_, _ = tx.ExecContext(ctx, "insert into "+m.table+" values ('undone')")
				tap.Store(nil)
				_, err := tx.ExecContext(testContext(t), "insert into "+m.table+" values ('leaked')")
				return err
			})
			if !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			mustExec(t, s, "select 1")
			cancel()
		}
		m.want(t)
	})
}

// What the session runs after a transaction whose context ended while it was
// idle is not a part of it, or fails: also a function that writes.
func TestFunctionAfterATransactionThatTimedOut(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		function := uniqueName("mark")
		mustExec(t, m.server, "create function "+function+"() returns text language sql as $$ insert into "+m.table+
			" values ('kept') returning mark $$")
		t.Cleanup(func() { mustExec(t, m.server, "drop function "+function+"()") })
		want := 0
		for range 50 {
			ctx, cancel := context.WithCancel(testContext(t))
			tx := mustBegin(t, beginsWith{s.Conn, ctx})
			m.mark(t, tx, "undone")
			cancel()
			var mark string
			err := s.QueryRowContext(testContext(t), "select "+function+"()").Scan(&mark)
			if err == nil {
				want++
			} else if !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			s.awaitEnd(t)
		}
		if got := queryValue[int](t, m.server, "select count(*) from "+m.table); got != want {
			t.Errorf("%d calls succeeded, %d rows are there", want, got)
		}
	})
}

// awaitEnd waits until database/sql has ended a transaction whose context has
// ended.
func (s *session) awaitEnd(t *testing.T) {
	t.Helper()
	until(t, "the transaction is over", func() bool {
		_, err := s.ExecContext(testContext(t), "select 1; select 2")
		if err != nil && !errors.Is(err, sql.ErrTxDone) {
			t.Error(err)
		}
		return err == nil
	})
}

// beginsWith begins transactions with a context of its own.
type beginsWith struct {
	*sql.Conn
	ctx context.Context
}

func (b beginsWith) BeginTx(_ context.Context, opts *sql.TxOptions) (*sql.Tx, error) {
	return b.Conn.BeginTx(b.ctx, opts)
}

// T1: the context ends while COMMIT waits for its turn. The transaction is rolled
// back, not left open.
func TestCommitThatDoesNotGetItsTurn(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		want := 0
		for range 100 {
			ctx, cancel := context.WithCancel(testContext(t))
			tx := mustBegin(t, beginsWith{s.Conn, ctx})
			m.mark(t, tx, "mark")
			listening, canceled := make(chan error, 1), make(chan struct{})
			go func() { listening <- s.pc.Listen(testContext(t), "t1") }() // joined below
			go func() { defer close(canceled); cancel() }()                // joined below
			err := tx.Commit()
			if err == nil {
				want++
			} else if !errors.Is(err, context.Canceled) && !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			<-canceled
			if err := recv(t, listening); err != nil && !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			s.awaitEnd(t)
		}
		if got := queryValue[int](t, m.server, "select count(*) from "+m.table); got != want {
			t.Errorf("%d of %d are committed", got, want)
		}
	})
}

// T5: rows of the session, not of the transaction, are open when it is to end.
func TestEndOfATransactionBesideOpenRows(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		for name, end := range map[string]func(*sql.Tx) error{"commit": (*sql.Tx).Commit, "rollback": (*sql.Tx).Rollback} {
			tx := mustBegin(t, s)
			m.mark(t, tx, "undone")
			rows, err := s.QueryContext(testContext(t), "select generate_series(1, 100000)")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			if err := end(tx); !errors.Is(err, pgnotify.ErrBusy) {
				t.Errorf("%s: %v", name, err)
			}
			if err := rows.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			m.mark(t, s, "kept")
		}
		m.want(t, "kept", "kept")
	})
}

// A txTiming is a point of a transaction at which its context ends.
type txTiming struct {
	name string
	// run is the function of InTx; mine is another context that goes on.
	run func(ctx, mine context.Context, tx *sql.Tx) error
}

var txTimings = []txTiming{
	{"idle", func(ctx, _ context.Context, _ *sql.Tx) error { <-ctx.Done(); return ctx.Err() }},
	{"idle, nil", func(ctx, _ context.Context, _ *sql.Tx) error { <-ctx.Done(); return nil }},
	{"idle, no more", func(context.Context, context.Context, *sql.Tx) error { return nil }},
	{"statement", func(ctx, _ context.Context, tx *sql.Tx) error {
		return execError(tx.ExecContext(ctx, "select pg_sleep(60)"))
	}},
	{"statement without a context", func(_, _ context.Context, tx *sql.Tx) error {
		return execError(tx.Exec("select pg_sleep($1)", 60))
	}},
	{"statements", func(ctx, _ context.Context, tx *sql.Tx) error {
		for {
			if _, err := tx.ExecContext(ctx, "select $1::int", 1); err != nil {
				return err
			}
		}
	}},
	{"statements of another context", func(_, mine context.Context, tx *sql.Tx) error {
		for {
			if _, err := tx.ExecContext(mine, "select 1"); err != nil {
				return err
			}
		}
	}},
	{"rows", func(ctx, _ context.Context, tx *sql.Tx) error {
		return readRows(tx.QueryContext(ctx, "select generate_series(1, 100000000)"))
	}},
	{"rows of another context", func(_, mine context.Context, tx *sql.Tx) error {
		return readRows(tx.QueryContext(mine, "select generate_series(1, 20000)"))
	}},
	{"savepoints", func(ctx, _ context.Context, tx *sql.Tx) error {
		for {
			err := pgnotify.InSavepoint(ctx, tx, func() error { return execError(tx.ExecContext(ctx, "select 1")) })
			if err != nil {
				return err
			}
		}
	}},
}

// T1, T5: the context of InTx ends at a random time. Then nothing of the
// transaction is there, and on a *sql.Conn the very next statement is outside of
// it. COMMIT takes some milliseconds, so that the context may end in it.
func TestInTxWhoseContextEnds(t *testing.T) {
	for _, w := range txTimings {
		t.Run(w.name, func(t *testing.T) {
			eachTxRig(t, func(t *testing.T, r *txRig) {
				r.slowCommit(t, 3*time.Millisecond)
				rounds := 5
				if !testing.Short() && r.from != beginner(r.db) {
					rounds = 34 // 200 over TCP, TLS and the unix socket, passive and active
				}
				for range rounds {
					r.timeOut(t, w)
				}
				r.wantUsable(t)
			})
		})
	}
}

// slowCommit gives the table a deferred trigger that makes COMMIT last.
func (m *marks) slowCommit(t *testing.T, d time.Duration) {
	t.Helper()
	function := uniqueName("slow")
	mustExec(t, m.server, fmt.Sprintf(`create function %s() returns trigger language plpgsql as
		$$ begin perform pg_sleep(%f); return null; end $$`, function, d.Seconds()))
	mustExec(t, m.server, "create constraint trigger slow after insert on "+m.table+
		" deferrable initially deferred for each row when (new.mark like 'slow%') execute function "+function+"()")
	t.Cleanup(func() { mustExec(t, m.server, "drop function "+function+" cascade") })
}

// timeOut is one round of TestInTxWhoseContextEnds.
func (r *txRig) timeOut(t *testing.T, w txTiming) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testContext(t), time.Duration(rand.Int64N(int64(10*time.Millisecond))))
	defer cancel()
	mark, after := uniqueName("slow"), uniqueName("after")
	began := false
	err := pgnotify.InTx(ctx, r.from, nil, func(tx *sql.Tx) error {
		began = true
		if _, err := tx.ExecContext(ctx, "insert into "+r.table+" values ($1)", mark); err != nil {
			return err
		}
		return w.run(ctx, testContext(t), tx)
	})
	r.mark(t, r.from, after)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sql.ErrTxDone) {
		t.Errorf("%v", err)
	}
	// sql.ErrTxDone itself is database/sql's, between its looks at the context and at the
	// transaction.
	if began && errors.Is(err, sql.ErrTxDone) && err != sql.ErrTxDone && !errors.Is(err, context.DeadlineExceeded) &&
		w.name != "statement without a context" && w.name != "statements of another context" && w.name != "rows of another context" {
		t.Errorf("%v hides the context's error", err)
	}
	count := "select count(*) from " + r.table + " where mark = $1"
	if n := queryValue[int](t, r.server, count, mark); (n == 1) != (err == nil) || n > 1 {
		t.Errorf("error %v, and %d rows of the transaction", err, n)
	}
	if n := queryValue[int](t, r.server, count, after); n != 1 {
		t.Errorf("error %v, and %d rows of what came after", err, n)
	}
}

// Promise 2, T1: a COMMIT that was cancelled before it began leaves a failed transaction
// to the server. It is rolled back, and the session is kept.
func TestCommitThatIsCancelledBeforeItBegins(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, pgfake.Script{
		pgfake.Greet(),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete("BEGIN"), pgfake.Ready('T')),
		pgfake.Await('Q'), pgfake.Send(pgfake.Error("ERROR", "57014", "canceling statement due to user request"), pgfake.Ready('E')),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete("ROLLBACK"), pgfake.Ready('I')),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete("LISTEN"), pgfake.Ready('I')),
		pgfake.Drain(),
	})
	s := take(t, open(t, server.DSN()))
	tx := mustBegin(t, s)
	if err := tx.Commit(); serverError(t, err).Code != "57014" {
		t.Error(err)
	}
	if status := s.pc.TransactionStatus(); status != pgnotify.TransactionIdle {
		t.Errorf("after the COMMIT: %v", status)
	}
	mustExec(t, s, "listen kept")
	if n := server.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// A transaction whose context has ended is rolled back by the next statement. When
// database/sql asks for it, on a goroutine of its own, another one may be under way.
func TestLateRollbackBesidesACopy(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	driverConn, err := connector(t, server(t).dsn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer driverConn.Close()
	conn := driverConn.(*pgnotify.Conn)
	run := func(ctx context.Context, query string) error { _, err := conn.ExecContext(ctx, query, nil); return err }
	if err := run(ctx, "create temp table late (a text)"); err != nil {
		t.Fatal(err)
	}
	ending, end := context.WithCancel(ctx)
	late, err := conn.BeginTx(ending, driver.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	end()
	_ = run(ctx, "select 1") // refused, or the first after the transaction
	tx, err := conn.BeginTx(ctx, driver.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := conn.PrepareContext(ctx, "copy late from stdin")
	if err != nil {
		t.Fatal(err)
	}
	send := in.(driver.StmtExecContext)
	row := []driver.NamedValue{{Ordinal: 1, Value: "x"}}
	_, first := send.ExecContext(ctx, row)
	_ = late.Rollback() // it may say that the session is busy: nothing is left to do
	_, second := send.ExecContext(ctx, row)
	res, err := send.ExecContext(ctx, nil)
	if err := errors.Join(first, second, err); err != nil {
		t.Fatal(err)
	}
	if n, _ := res.RowsAffected(); n != 2 {
		t.Errorf("%d rows were copied", n)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
}
