package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
)

// A bank has accounts with money and points.
type bank struct {
	db      *sql.DB
	retries atomic.Int32 // attempts that were repeated
}

// transfer moves an amount, and books points for it unless there are too many.
func (b *bank) transfer(ctx context.Context, from, to string, amount, points int) (booked int, err error) {
	serializable := &sql.TxOptions{Isolation: sql.LevelSerializable}
	err = b.retry(func() error {
		return pgnotify.InTx(ctx, b.db, serializable, func(tx *sql.Tx) error {
			if err := add(ctx, tx, "balance", from, -amount); err != nil {
				return err
			}
			if err := add(ctx, tx, "balance", to, amount); err != nil {
				return err
			}
			booked = points
			err := pgnotify.InSavepoint(ctx, tx, func() error { return add(ctx, tx, "points", to, points) })
			if hasCode(err, pqerror.CheckViolation) {
				booked, err = 0, nil // only the points are undone: the money moves all the same
			}
			return err
		})
	})
	return booked, err
}

// add changes an account. If there is none of that name, Scan reports that there is no
// row.
func add(ctx context.Context, tx *sql.Tx, column, owner string, n int) error {
	query := "UPDATE pgnotify_transfer SET " + column + " = " + column + " + $2 WHERE owner = $1 RETURNING owner"
	return tx.QueryRowContext(ctx, query, owner, n).Scan(&owner)
}

// retry calls f again if it failed because another transaction was in its way; the work
// of f has then been undone. It ends with f's context. It repeats nothing else: if the
// session was lost during COMMIT, the transfer may have been made.
func (b *bank) retry(f func() error) error {
	for {
		err := f()
		if !hasCode(err, pqerror.TRSerializationFailure) && !hasCode(err, pqerror.TRDeadlockDetected) {
			return err
		}
		b.retries.Add(1)
		time.Sleep(rand.N(10 * time.Millisecond)) // or the same transactions would meet again
	}
}

func hasCode(err error, code pqerror.Code) bool {
	var server *pq.Error
	return errors.As(err, &server) && server.Code == code
}

func (b *bank) open(ctx context.Context) error {
	_, err := b.db.ExecContext(ctx, `CREATE TABLE pgnotify_transfer (
			owner text PRIMARY KEY,
			balance int CONSTRAINT no_debt CHECK (balance >= 0),
			points int CONSTRAINT few_points CHECK (points <= 10));
		INSERT INTO pgnotify_transfer VALUES ('ann', 100, 0), ('bob', 20, 0)`)
	return err
}

// Close removes the accounts, even after Ctrl-C.
func (b *bank) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := b.db.ExecContext(ctx, "DROP TABLE pgnotify_transfer")
	return err
}
