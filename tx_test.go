package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
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

// PostgreSQL's REPEATABLE READ is snapshot isolation. It has no level for the others.
func TestIsolationLevels(t *testing.T) {
	eachTxRig(t, func(t *testing.T, r *txRig) {
		for level, want := range map[sql.IsolationLevel]string{
			sql.LevelReadUncommitted: "read uncommitted",
			sql.LevelReadCommitted:   "read committed",
			sql.LevelRepeatableRead:  "repeatable read",
			sql.LevelSnapshot:        "repeatable read",
			sql.LevelSerializable:    "serializable",
			sql.LevelWriteCommitted:  "",
			sql.LevelLinearizable:    "",
		} {
			got := ""
			err := pgnotify.InTx(testContext(t), r.from, &sql.TxOptions{Isolation: level}, func(tx *sql.Tx) error {
				got = queryValue[string](t, tx, "show transaction_isolation")
				return nil
			})
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%v: %q, %v", level, got, err)
			}
			if want == "" && !strings.Contains(err.Error(), "isolation level not supported") {
				t.Errorf("%v: %v", level, err)
			}
		}
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
