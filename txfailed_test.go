package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

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
	terminateAndWait(t, r.server, r.pid)
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
				if !strings.HasPrefix(err.Error(), "pgnotify: commit: session lost: ") {
					t.Errorf("%v: that it was COMMIT decides whether to try again", err)
				}
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
