package pgnotify_test

import (
	"context"
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
