package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
)

// Promise 7: who calls the driver by itself, gets driver.ErrSkip and does not come
// back, leaves nothing of that to the next borrower.
func TestStatementThatGaveWayIsNotTheNextBorrowers(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	db.SetMaxOpenConns(1)
	skipped := false
	for range 200 {
		s := take(t, db)
		ctx, cancel := context.WithCancel(testContext(t))
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Raw(func(dc any) error {
			cancel() // the goroutine that asks for the rollback now waits for Raw
			_, err := dc.(driver.ExecerContext).ExecContext(testContext(t), "this is no sql", nil)
			return err
		})
		_ = tx.Rollback()
		s.Close()
		if skipped = errors.Is(err, driver.ErrSkip); skipped {
			break
		}
	}
	if !skipped {
		t.Fatal("no statement gave way")
	}
	if st, err := db.PrepareContext(testContext(t), "this is no sql"); err == nil {
		st.Close()
		t.Error("nonsense was prepared")
	}
}

// N13: a statement that gives way has no turn any more, and a Listen may have it. What
// they leave for later requests is not the same memory; the race detector looks.
func TestStatementThatGivesWayBesideListen(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			db := open(t, m.dsn)
			for range 20 { // a session that has listened is not used again
				s := take(t, db)
				ctx, cancel := context.WithCancel(testContext(t))
				mustBegin(t, beginsWith{s.Conn, ctx})
				listening := make(chan error, 1)
				go func() { listening <- s.pc.Listen(testContext(t), "t1") }() // joined below
				cancel()
				if _, err := s.ExecContext(testContext(t), "select 1"); err != nil && !errors.Is(err, sql.ErrTxDone) {
					t.Error(err)
				}
				if err := recv(t, listening); err != nil {
					t.Error(err)
				}
				s.Close()
			}
		})
	}
}
