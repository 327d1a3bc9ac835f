package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

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
