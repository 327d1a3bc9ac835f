package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// W3: who waits for notifications does not hold the session's lock: statements, the
// rollback of a transaction whose context has ended, and closing the pool go on.
func TestWaitingHoldsUpNobody(t *testing.T) {
	eachListener(t, func(t *testing.T, _ *sql.DB, dsn string) {
		db := open(t, dsn)
		s := take(t, db)
		channel := uniqueName("a")
		if err := s.pc.Listen(testContext(t), channel); err != nil {
			t.Fatal(err)
		}
		heard := make(chan string)
		waited := async(t, func() error {
			for n, err := range s.pc.Notifications(context.Background()) {
				if err != nil {
					return err
				}
				heard <- n.Payload
			}
			return nil
		})
		mustExec(t, s, "create temp table w3 (a int)")
		ctx, cancel := context.WithCancel(testContext(t))
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, "insert into w3 values (1)"); err != nil {
			t.Fatal(err)
		}
		cancel() // database/sql rolls back on a goroutine of its own
		until(t, "the transaction is rolled back", func() bool {
			return s.pc.TransactionStatus() == pgnotify.TransactionIdle
		})
		if n := queryValue[int](t, s, "select count(*) from w3"); n != 0 {
			t.Errorf("%d rows", n)
		}
		notify(t, s, channel, "x")
		if got := <-heard; got != "x" {
			t.Errorf("heard %q", got)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-waited; !errors.Is(err, pgnotify.ErrReleased) && !errors.Is(err, pgnotify.ErrClosed) {
			t.Error(err)
		}
	})
}
