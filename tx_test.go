package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A beginner is what InTx is called with: a pool or a session.
type beginner interface {
	pgnotify.Beginner
	execer
	queryer
}

// A txRig is something that begins transactions, and a table that shows what
// became of them.
type txRig struct {
	*marks
	db   *sql.DB // a pool of one session
	from beginner
	pid  uint32 // of the session
}

// eachTxRig runs a test over each way to the server, with a pool of one session
// and with that session, which is passive or active.
func eachTxRig(t *testing.T, f func(t *testing.T, r *txRig)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		for _, pool := range []bool{false, true} {
			for _, active := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/pool=%v/active=%v", m.name, pool, active), func(t *testing.T) {
					t.Parallel()
					f(t, newTxRig(t, m, pool, active))
				})
			}
		}
	}
}

func newTxRig(t *testing.T, m mode, pool, active bool) *txRig {
	t.Helper()
	r := &txRig{marks: newMarks(t), db: open(t, m.dsn)}
	r.db.SetMaxOpenConns(1)
	s := take(t, r.db)
	if active {
		s.pc.Activate()
	}
	r.from, r.pid = s.Conn, s.pc.PID()
	if pool {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r.from = r.db
	}
	return r
}

// inTx calls InTx.
func (r *txRig) inTx(t *testing.T, f func(tx *sql.Tx) error) error {
	t.Helper()
	return pgnotify.InTx(testContext(t), r.from, nil, f)
}

// mark leaves a mark.
func (m *marks) mark(t *testing.T, db execer, mark string) {
	t.Helper()
	mustExec(t, db, "insert into "+m.table+" values ($1)", mark)
}

// want checks which marks were committed.
func (m *marks) want(t *testing.T, want ...string) {
	t.Helper()
	got := queryValue[string](t, m.server, "select coalesce(string_agg(mark, ' ' order by mark), '') from "+m.table)
	if got != strings.Join(want, " ") {
		t.Errorf("committed: %q, want %q", got, want)
	}
}

// wantUsable checks that the session is the same, in no transaction, and works.
func (r *txRig) wantUsable(t *testing.T) {
	t.Helper()
	state := "select state from pg_stat_activity where pid = $1"
	if got := queryValue[string](t, r.server, state, r.pid); got != "idle" {
		t.Errorf("the session is %s", got)
	}
	after := uniqueName("after")
	r.mark(t, r.from, after)
	if !queryValue[bool](t, r.server, "select count(*) = 1 from "+r.table+" where mark = $1", after) {
		t.Error("what follows is not committed")
	}
	mustExec(t, r.server, "delete from "+r.table+" where mark = $1", after)
	if got := queryValue[uint32](t, r.from, "select pg_backend_pid()"); got != r.pid {
		t.Errorf("session %d became %d", r.pid, got)
	}
}

// panicOf returns what f panics with.
func panicOf(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

var errOfTheProgram = errors.New("the program's own")

// T1, T5
func TestInTxCommits(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		for round := range 3 {
			err := r.inTx(t, func(tx *sql.Tx) error {
				r.mark(t, tx, fmt.Sprint(round))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		r.want(t, "0", "1", "2")
		r.wantUsable(t)
	})
}

// T1, T5: the error of the function comes out as it is.
func TestInTxRollsBackOnAnError(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		for _, want := range []error{errOfTheProgram, sql.ErrNoRows, sql.ErrTxDone, context.Canceled, driver.ErrBadConn} {
			err := r.inTx(t, func(tx *sql.Tx) error {
				r.mark(t, tx, "undone")
				return want
			})
			if err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			r.wantUsable(t)
		}
		var failed error
		err := r.inTx(t, func(tx *sql.Tx) error {
			r.mark(t, tx, "undone")
			_, failed = tx.ExecContext(testContext(t), "select 1/0")
			return failed
		})
		if failed == nil || err != failed || serverError(t, err).Code != "22012" {
			t.Errorf("got %v, want %v", err, failed)
		}
		r.want(t)
		r.wantUsable(t)
	})
}

// T1, T5: the panic goes on with its value.
func TestInTxRollsBackOnAPanic(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		for _, want := range []any{"out of order", errOfTheProgram, 42, &txRig{}} {
			got := panicOf(func() {
				err := r.inTx(t, func(tx *sql.Tx) error {
					r.mark(t, tx, "undone")
					panic(want)
				})
				t.Errorf("InTx returned %v", err)
			})
			if got != want {
				t.Errorf("got panic %v, want %v", got, want)
			}
			r.wantUsable(t)
		}
		r.want(t)
	})
}

// T1: runtime.Goexit is what testing.T.Fatal does.
func TestInTxRollsBackOnGoexit(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		ended, returned := make(chan struct{}), false
		go func() { // ends by Goexit; joined below
			defer close(ended)
			_ = r.inTx(t, func(tx *sql.Tx) error {
				_, _ = tx.ExecContext(testContext(t), "insert into "+r.table+" values ('undone')")
				runtime.Goexit()
				return nil
			})
			returned = true
		}()
		recv(t, ended)
		if returned {
			t.Error("InTx returned")
		}
		r.want(t)
		r.wantUsable(t)
	})
}

// T1
func TestInTxOptions(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		opts := &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true}
		err := pgnotify.InTx(testContext(t), r.from, opts, func(tx *sql.Tx) error {
			level := queryValue[string](t, tx, "show transaction_isolation")
			if readOnly := queryValue[string](t, tx, "show transaction_read_only"); level != "serializable" || readOnly != "on" {
				t.Errorf("%s, read only: %s", level, readOnly)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		r.wantUsable(t)
	})
}

// T1: nil options mean the server's defaults.
func TestInTxDefaultOptions(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		mustExec(t, r.from, "set default_transaction_read_only = on")
		mustExec(t, r.from, "set default_transaction_isolation = 'repeatable read'")
		err := r.inTx(t, func(tx *sql.Tx) error {
			level := queryValue[string](t, tx, "show transaction_isolation")
			if readOnly := queryValue[string](t, tx, "show transaction_read_only"); level != "repeatable read" || readOnly != "on" {
				t.Errorf("%s, read only: %s", level, readOnly)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// T1: without a transaction the function does not run.
func TestInTxThatCannotBegin(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		run := func(ctx context.Context, opts *sql.TxOptions) error {
			return pgnotify.InTx(ctx, r.from, opts, func(*sql.Tx) error {
				t.Error("the function runs")
				return nil
			})
		}
		canceled, cancel := context.WithCancel(testContext(t))
		cancel()
		if err := run(canceled, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a dead context: %v", err)
		}
		if err := run(testContext(t), &sql.TxOptions{Isolation: sql.LevelLinearizable}); err == nil {
			t.Error("no error for a level that PostgreSQL does not know")
		}
		r.wantUsable(t)
		if r.from == beginner(r.db) {
			return // a second one would wait for the pool
		}
		err := r.inTx(t, func(tx *sql.Tx) error {
			if err := run(testContext(t), nil); err == nil {
				t.Error("no error within a transaction")
			}
			r.mark(t, tx, "kept")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		r.want(t, "kept")
		r.wantUsable(t)
	})
}

// T1: the transaction is over in the function already.
func TestInTxWhoseFunctionEndsTheTransaction(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		for name, end := range map[string]func(*sql.Tx) error{"commit": (*sql.Tx).Commit, "rollback": (*sql.Tx).Rollback} {
			for _, want := range []error{nil, errOfTheProgram} {
				err := r.inTx(t, func(tx *sql.Tx) error {
					if err := end(tx); err != nil {
						t.Error(err)
					}
					return want
				})
				if want != nil && err != want || want == nil && !errors.Is(err, sql.ErrTxDone) {
					t.Errorf("%s, %v: %v", name, want, err)
				}
				r.wantUsable(t)
			}
		}
	})
}

// T1, T5: what the function leaves open is closed. Committing a COPY that is not
// finished is an error.
func TestInTxClosesWhatWasLeftOpen(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		leaveCopy := func(tx *sql.Tx) error {
			st, err := tx.PrepareContext(testContext(t), "copy "+r.table+" from stdin")
			if err == nil {
				_, err = st.ExecContext(testContext(t), "copied")
			}
			return err
		}
		leaveRows := func(tx *sql.Tx) error {
			rows, err := tx.QueryContext(testContext(t), "select generate_series(1, 100000)")
			if err == nil && !rows.Next() {
				err = rows.Err()
			}
			return err
		}
		for _, c := range []struct {
			name  string
			leave func(*sql.Tx) error
			own   error
			want  error
		}{
			{"rows", leaveRows, nil, nil},
			{"rows and an error", leaveRows, errOfTheProgram, errOfTheProgram},
			{"copy", leaveCopy, nil, pgnotify.ErrBusy},
			{"copy and an error", leaveCopy, errOfTheProgram, errOfTheProgram},
		} {
			err := r.inTx(t, func(tx *sql.Tx) error {
				if err := c.leave(tx); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				return c.own
			})
			if !errors.Is(err, c.want) || c.own != nil && err != c.own {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
			r.want(t)
			r.wantUsable(t)
		}
	})
}

// logged returns what f logs by slog.Default. A test that uses it does not run
// besides others, which share it.
func logged(f func()) string {
	var b lockedBuffer
	before, output, flags := slog.Default(), log.Writer(), log.Flags()
	defer func() {
		slog.SetDefault(before)
		log.SetOutput(output) // SetDefault has log's messages go to slog
		log.SetFlags(flags)
	}()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, nil)))
	f()
	return b.String()
}

// failingRollback is the script of a server that refuses to roll back, but does.
func failingRollback(begin, rollback string) pgfake.Script {
	status := byte('T')
	if rollback == "ROLLBACK" {
		status = 'I'
	}
	return pgfake.Script{pgfake.Greet(),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete(begin), pgfake.Ready('T')),
		pgfake.Await('Q'), pgfake.Send(pgfake.Error("ERROR", "XX000", "no way back"), pgfake.Ready(status)), pgfake.Serve()}
}

// T1: a rollback that fails is logged once, and hides neither error nor panic.
// The test does not run besides others: the logger is the process's.
func TestFailedRollbackIsLogged(t *testing.T) {
	for name, own := range map[string]error{"error": errOfTheProgram, "panic": nil} {
		t.Run(name, func(t *testing.T) {
			f := func() error {
				if own == nil {
					panic("out of order")
				}
				return own
			}
			outcome := func(run func() error) {
				var err error
				var value any
				text := logged(func() { value = panicOf(func() { err = run() }) })
				if err != own || own == nil && value != "out of order" {
					t.Errorf("error %v, panic %v", err, value)
				}
				if strings.Count(text, "no way back") != 1 || strings.Count(text, "level=WARN") != 1 ||
					strings.Count(text, "\n") != 1 {
					t.Errorf("the log: %q", text)
				}
			}
			db := open(t, pgfake.Start(t, failingRollback("BEGIN", "ROLLBACK")).DSN())
			outcome(func() error {
				return pgnotify.InTx(testContext(t), db, nil, func(*sql.Tx) error { return f() })
			})
			s := take(t, open(t, pgfake.Start(t, failingRollback("SAVEPOINT", "ROLLBACK TO")).DSN()))
			outcome(func() error { return pgnotify.InSavepoint(testContext(t), s, f) })
		})
	}
}

// T1: where all goes well nothing is logged. The test does not run besides
// others: the logger is the process's.
func TestRollbackIsNotLogged(t *testing.T) {
	r := newTxRig(t, modes(t)[0], false, false)
	text := logged(func() {
		for range 10 {
			_ = r.inTx(t, func(*sql.Tx) error { return errOfTheProgram })
			_ = panicOf(func() { _ = r.inTx(t, func(*sql.Tx) error { panic("out of order") }) })
			ctx, cancel := context.WithCancel(testContext(t))
			_ = pgnotify.InTx(ctx, r.from, nil, func(tx *sql.Tx) error {
				return pgnotify.InSavepoint(ctx, tx, func() error { cancel(); return errOfTheProgram })
			})
		}
	})
	if text != "" {
		t.Errorf("the log: %s", text)
	}
	r.wantUsable(t)
}

// T3: the loss is logged where a panic goes on, which cannot carry it. The test
// does not run besides others: the logger is the process's.
func TestLossIsLoggedWhenThePanicGoesOn(t *testing.T) {
	r := newTxRig(t, modes(t)[0], true, false)
	var value any
	text := logged(func() {
		value = panicOf(func() {
			_ = r.inTx(t, func(*sql.Tx) error { r.kill(t); panic("out of order") })
		})
	})
	if value != "out of order" || strings.Count(text, "57P01") != 1 || strings.Count(text, "\n") != 1 {
		t.Errorf("panic %v, the log: %q", value, text)
	}
}

// T2: COMMIT fails where a deferred constraint does.
func TestInTxWhoseCommitFails(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		parent, child := uniqueName("parent"), uniqueName("child")
		mustExec(t, r.server, "create table "+parent+" (id int primary key, once int unique deferrable initially deferred);"+
			"create table "+child+" (id int references "+parent+" deferrable initially deferred)")
		defer mustExec(t, r.server, "drop table "+child+", "+parent)
		for code, statement := range map[string]string{
			"23503": "insert into " + child + " values (7)",
			"23505": "insert into " + parent + " values (1, 1), (2, 1)",
		} {
			for range 3 {
				err := r.inTx(t, func(tx *sql.Tx) error {
					r.mark(t, tx, "undone")
					mustExec(t, tx, statement)
					return nil
				})
				if e, ok := err.(*pq.Error); !ok || string(e.Code) != code {
					t.Errorf("%s: %v", code, err)
				}
				r.want(t)
				r.wantUsable(t)
			}
		}
	})
}

// T2, T6: an error that the function hides is one of COMMIT, not a success.
func TestInTxWhoseFunctionHidesAnError(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		err := r.inTx(t, func(tx *sql.Tx) error {
			r.mark(t, tx, "undone")
			_, _ = tx.ExecContext(testContext(t), "select 1/0")
			return nil
		})
		if !errors.Is(err, pq.ErrInFailedTransaction) {
			t.Errorf("%v", err)
		}
		r.want(t)
		r.wantUsable(t)
	})
}

// kill ends the rig's session on the server.
func (r *txRig) kill(t *testing.T) {
	t.Helper()
	if !queryValue[bool](t, r.server, "select pg_terminate_backend($1, 20000)", r.pid) {
		t.Fatal("the backend did not end")
	}
}

// wantKilled checks that an error tells of the session's end, once.
func wantKilled(t *testing.T, err error) *pgnotify.DisconnectError {
	t.Helper()
	lost, ok := asError[*pgnotify.DisconnectError](err)
	if !ok || lost.Reason != pgnotify.AdminShutdown || serverError(t, err).Code != "57P01" {
		t.Fatalf("got %v, want the reason of the session's end", err)
	}
	if errors.Is(err, driver.ErrBadConn) {
		t.Errorf("%v: somebody might try it again", err)
	}
	if strings.Count(err.Error(), "session lost") != 1 || strings.Contains(err.Error(), "%!") {
		t.Errorf("the text is bad: %v", err)
	}
	return lost
}

// A lossCase is what a function in a transaction does once its session is lost.
type lossCase struct {
	statement bool  // it runs a statement, which fails
	returns   error // its own error; nil: that of the statement
	hides     bool  // it returns nil
	savepoint bool  // all of it happens within a savepoint
}

// run returns what the function returns, and the error that must be in it.
func (c lossCase) run(t *testing.T, tx *sql.Tx) (err, is error) {
	if c.statement {
		if _, err = tx.ExecContext(testContext(t), "select 1"); err == nil {
			t.Error("no error from a dead session")
		}
	}
	switch {
	case c.hides:
		return nil, nil
	case c.returns != nil && err != nil:
		return fmt.Errorf("%w: %w", c.returns, err), c.returns
	case c.returns != nil:
		return c.returns, c.returns
	}
	return err, err
}

// T3: the backend is killed while the function runs.
func TestInTxWhoseSessionIsLost(t *testing.T) {
	for name, c := range map[string]lossCase{
		"own error":                 {returns: errOfTheProgram},
		"own error, savepoint":      {returns: errOfTheProgram, savepoint: true},
		"driver's error":            {statement: true},
		"driver's error, savepoint": {statement: true, savepoint: true},
		"driver's error, wrapped":   {statement: true, returns: errOfTheProgram},
		"none":                      {hides: true},
		"none, savepoint":           {hides: true, savepoint: true},
		"none after a failed query": {statement: true, hides: true},
	} {
		t.Run(name, func(t *testing.T) {
			eachTxRig(t, func(t *testing.T, r *txRig) {
				var own, is error // of the function
				var inner error   // of the savepoint
				f := func(tx *sql.Tx) error {
					r.kill(t)
					own, is = c.run(t, tx)
					return own
				}
				err := r.inTx(t, func(tx *sql.Tx) error {
					r.mark(t, tx, "undone")
					if !c.savepoint {
						return f(tx)
					}
					inner = pgnotify.InSavepoint(testContext(t), tx, func() error { return f(tx) })
					return inner
				})
				lost := wantKilled(t, err)
				if is != nil && !errors.Is(err, is) {
					t.Errorf("%v hides %v", err, is)
				}
				if pgnotify.IsDisconnect(own) && err != own || c.savepoint && err != inner {
					t.Errorf("%v, then %v, became %v", own, inner, err)
				}
				if c.statement && c.hides && lost.Sent {
					t.Errorf("COMMIT was sent over a session known to be lost: %v", err)
				}
				r.want(t)
				if r.from == beginner(r.db) {
					mustExec(t, r.from, "select 1")
				} else if _, err := r.from.ExecContext(testContext(t), "select 1"); err == nil {
					t.Error("the session is alive")
				}
			})
		})
	}
}

// T3: COMMIT was executed, or not, and its answer is lost.
func TestInTxWhoseCommitIsLost(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(options ...func(*pgnotify.Config)) *rig) {
		for name, c := range map[string]struct {
			fault faultproxy.Fault
			marks int
		}{
			"answer":  {faultproxy.Fault{}, 1},
			"request": {faultproxy.Fault{Unsent: true}, 0},
			"reset":   {faultproxy.Fault{Reset: true}, 1},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig()
				r.fresh(t)
				err := pgnotify.InTx(testContext(t), r.db, nil, func(tx *sql.Tx) error {
					mustExec(t, tx, r.insert())
					r.proxy.Break(c.fault)
					return nil
				})
				reason := pgnotify.PeerClosed
				if c.fault.Reset {
					reason = pgnotify.Reset
				}
				r.wantLost(t, err, reason)
				if n := r.count(t); n != c.marks {
					t.Errorf("%d marks, want %d", n, c.marks)
				}
				mustExec(t, r.db, "select 1")
			})
		}
	})
}

// T6
func TestFailedTransactionUntilRollback(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		ctx := testContext(t)
		tx := mustBegin(t, r.from)
		r.mark(t, tx, "undone")
		st, err := tx.PrepareContext(ctx, "select 1")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if _, err := tx.ExecContext(ctx, "select 1/0"); serverError(t, err).Code != "22012" {
			t.Error(err)
		}
		var n int
		for name, f := range map[string]func() error{
			"exec":                     func() error { _, err := tx.ExecContext(ctx, "select 1"); return err },
			"exec with arguments":      func() error { _, err := tx.ExecContext(ctx, "select $1::int", 1); return err },
			"query":                    func() error { return tx.QueryRowContext(ctx, "select 1").Scan(&n) },
			"query with arguments":     func() error { return tx.QueryRowContext(ctx, "select $1::int", 1).Scan(&n) },
			"prepare":                  func() error { _, err := tx.PrepareContext(ctx, "select 1"); return err },
			"prepared":                 func() error { _, err := st.ExecContext(ctx); return err },
			"prepared query":           func() error { return st.QueryRowContext(ctx).Scan(&n) },
			"copy":                     func() error { _, err := tx.PrepareContext(ctx, "copy "+r.table+" from stdin"); return err },
			"savepoint":                func() error { return pgnotify.InSavepoint(ctx, tx, func() error { return nil }) },
			"notify":                   func() error { return pgnotify.Notify(ctx, tx, "t6", "") },
			"several":                  func() error { _, err := tx.ExecContext(ctx, "select 1; select 2"); return err },
			"a savepoint never set":    func() error { _, err := tx.ExecContext(ctx, "release savepoint a"); return err },
			"query of several results": func() error { return readRows(tx.QueryContext(ctx, "select 1; select 2")) },
		} {
			if e, ok := asError[*pq.Error](f()); !ok || e.Code != "25P02" {
				t.Errorf("%s: %v", name, e)
			}
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		r.want(t)
		r.wantUsable(t)
	})
}

// T5: a transaction that was begun as plain SQL does not reach the next borrower.
func TestTransactionOfPlainSQLIsNotHandedOn(t *testing.T) {
	single(t, func(t *testing.T, db *sql.DB) {
		m := newMarks(t)
		for _, begin := range []string{"begin", "start transaction read only", "begin; select 1", "rollback; begin"} {
			mustExec(t, db, begin)
			m.mark(t, db, "kept") // in a session that is not in that transaction
		}
		if _, err := db.ExecContext(testContext(t), "begin; select 1/0"); err == nil {
			t.Error("no error")
		}
		m.mark(t, db, "kept")
		m.want(t, "kept", "kept", "kept", "kept", "kept")
	})
}

// savepoint calls InSavepoint.
func savepoint(t *testing.T, tx pgnotify.Execer, f func() error) error {
	t.Helper()
	return pgnotify.InSavepoint(testContext(t), tx, f)
}

// eachTx runs a test within a transaction, and checks what it has committed.
func eachTx(t *testing.T, want []string, f func(t *testing.T, r *txRig, tx *sql.Tx)) {
	t.Helper()
	eachTxRig(t, func(t *testing.T, r *txRig) {
		err := r.inTx(t, func(tx *sql.Tx) error {
			r.mark(t, tx, "first")
			f(t, r, tx)
			r.mark(t, tx, "last")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		r.want(t, want...)
		r.wantUsable(t)
	})
}

// T4: three deep, with a failure at each depth, or none. What is inside of the
// failure is undone, and what is outside goes on.
func TestSavepointsNest(t *testing.T) {
	for failing, want := range [][]string{
		0: {"after1", "after2", "after3", "before1", "before2", "before3", "first", "last"},
		1: {"first", "last"},
		2: {"after1", "before1", "first", "last"},
		3: {"after1", "after2", "before1", "before2", "first", "last"},
	} {
		t.Run(fmt.Sprint("failure at ", failing), func(t *testing.T) {
			eachTx(t, want, func(t *testing.T, r *txRig, tx *sql.Tx) {
				var deeper func(depth int) error
				deeper = func(depth int) error {
					return savepoint(t, tx, func() error {
						r.mark(t, tx, fmt.Sprint("before", depth))
						if depth < 3 {
							if err := deeper(depth + 1); (err != nil) != (failing == depth+1) {
								t.Errorf("at depth %d: %v", depth+1, err)
							}
						}
						r.mark(t, tx, fmt.Sprint("after", depth))
						if depth == failing {
							return errOfTheProgram
						}
						return nil
					})
				}
				if err := deeper(1); (err == errOfTheProgram) != (failing == 1) {
					t.Error(err)
				}
			})
		})
	}
}

// T4: an error that passes all savepoints undoes all of them.
func TestErrorThroughSavepoints(t *testing.T) {
	eachTx(t, []string{"first", "last"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		err := savepoint(t, tx, func() error {
			r.mark(t, tx, "undone")
			return savepoint(t, tx, func() error {
				r.mark(t, tx, "undone")
				return savepoint(t, tx, func() error {
					_, err := tx.ExecContext(testContext(t), "select 1/0")
					return err
				})
			})
		})
		if e, ok := err.(*pq.Error); !ok || e.Code != "22012" {
			t.Errorf("%v", err)
		}
	})
}

// T4: one after the other, in a loop, every other one with a server's error.
func TestSavepointsInALoop(t *testing.T) {
	eachTx(t, []string{"0", "2", "4", "6", "8", "first", "last"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		for i := range 10 {
			err := savepoint(t, tx, func() error {
				r.mark(t, tx, fmt.Sprint(i))
				_, err := tx.ExecContext(testContext(t), "select 1 / $1::int", 1-i%2)
				return err
			})
			if (err != nil) != (i%2 == 1) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if _, err := tx.ExecContext(testContext(t), "savepoint outer_one"); err != nil {
			t.Error(err) // the loop has left none that hides another
		}
	})
}

// T4: the panic goes on with its value, and whoever recovers can go on with the
// transaction.
func TestPanicInASavepoint(t *testing.T) {
	eachTx(t, []string{"first", "last"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		for _, statement := range []string{"select 1", "select 1/0"} {
			value := panicOf(func() {
				_ = savepoint(t, tx, func() error {
					return savepoint(t, tx, func() error {
						r.mark(t, tx, "undone")
						_, _ = tx.ExecContext(testContext(t), statement)
						panic(errOfTheProgram)
					})
				})
			})
			if value != errOfTheProgram {
				t.Errorf("%s: panic %v", statement, value)
			}
		}
	})
}

// T4: an error that the function hides comes out when the savepoint is released.
func TestSavepointWhoseFunctionHidesAnError(t *testing.T) {
	eachTx(t, []string{"first", "last"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		err := savepoint(t, tx, func() error {
			r.mark(t, tx, "undone")
			_, _ = tx.ExecContext(testContext(t), "select 1/0")
			return nil
		})
		if e, ok := err.(*pq.Error); !ok || e.Code != "25P02" {
			t.Errorf("%v", err)
		}
	})
}

// T4: the context of a savepoint is not that of the transaction.
func TestSavepointWhoseContextEnds(t *testing.T) {
	eachTx(t, []string{"first", "last"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		for name, f := range map[string]func(ctx context.Context, cancel context.CancelFunc) error{
			"statement": func(ctx context.Context, cancel context.CancelFunc) error {
				defer cancelWhenAsleep(ctx, t, r, cancel)()
				_, err := tx.ExecContext(ctx, "select pg_sleep(60)")
				return err
			},
			"rows": func(ctx context.Context, cancel context.CancelFunc) error {
				rows, err := tx.QueryContext(ctx, "select generate_series(1, 100000000)")
				if err != nil {
					return err
				}
				defer rows.Close()
				for n := 0; rows.Next(); n++ {
					if n == 1000 {
						cancel()
					}
				}
				return rows.Err()
			},
			"idle":        func(_ context.Context, cancel context.CancelFunc) error { cancel(); return nil },
			"idle, error": func(_ context.Context, cancel context.CancelFunc) error { cancel(); return errOfTheProgram },
		} {
			ctx, cancel := context.WithCancel(testContext(t))
			err := pgnotify.InSavepoint(ctx, tx, func() error {
				r.mark(t, tx, "undone")
				return f(ctx, cancel)
			})
			if !errors.Is(err, context.Canceled) && err != errOfTheProgram {
				t.Errorf("%s: %v", name, err)
			}
			if err := pgnotify.InSavepoint(ctx, tx, func() error { t.Error("it runs"); return nil }); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: another with a dead context: %v", name, err)
			}
			cancel()
		}
	})
}

// cancelWhenAsleep calls cancel when the rig's session sleeps. What it returns
// waits for that.
func cancelWhenAsleep(ctx context.Context, t *testing.T, r *txRig, cancel context.CancelFunc) (wait func()) {
	done := make(chan struct{})
	go func() { // ends with the context; joined by wait
		defer close(done)
		defer cancel()
		asleep := false
		for ctx.Err() == nil && !asleep {
			err := r.server.QueryRowContext(ctx, "select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = $1",
				r.pid).Scan(&asleep)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	}()
	return func() { <-done }
}

// T4: savepoints of the program, of any name, within and around.
func TestSavepointsOfTheProgram(t *testing.T) {
	eachTx(t, []string{"first", "inside", "last", "outside"}, func(t *testing.T, r *txRig, tx *sql.Tx) {
		for _, name := range []string{`a`, `"A b"`, `pgnotify`, `savepoint_1`, `"quo""ted"`} {
			mustExec(t, tx, "savepoint "+name)
			r.mark(t, tx, "outside")
			err := savepoint(t, tx, func() error {
				r.mark(t, tx, "inside")
				mustExec(t, tx, "savepoint "+name) // hides that outside, and is not released
				r.mark(t, tx, "undone")
				if err := savepoint(t, tx, func() error { r.mark(t, tx, "undone"); return nil }); err != nil {
					t.Error(err)
				}
				mustExec(t, tx, "rollback to savepoint "+name)
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mustExec(t, tx, "rollback to savepoint "+name) // that outside
			if n := queryValue[int](t, tx, "select count(*) from "+r.table); n != 1 {
				t.Errorf("%s: %d rows are there", name, n)
			}
		}
		r.mark(t, tx, "outside")
		_ = savepoint(t, tx, func() error {
			mustExec(t, tx, "savepoint inner_one")
			r.mark(t, tx, "undone")
			mustExec(t, tx, "release savepoint inner_one")
			return errOfTheProgram
		})
		if err := savepoint(t, tx, func() error { r.mark(t, tx, "inside"); return nil }); err != nil {
			t.Error(err)
		}
	})
}

// T4: a transaction that was begun as plain SQL has savepoints, too.
func TestSavepointOnASession(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		if err := savepoint(t, s, func() error { t.Error("it runs"); return nil }); serverError(t, err).Code != "25P01" {
			t.Errorf("outside of a transaction: %v", err)
		}
		mustExec(t, s, "begin")
		for _, want := range []error{nil, errOfTheProgram, nil} {
			err := savepoint(t, s, func() error {
				m.mark(t, s, fmt.Sprint("kept=", want == nil))
				return want
			})
			if err != want {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		mustExec(t, s, "commit")
		m.want(t, "kept=true", "kept=true")
	})
}
