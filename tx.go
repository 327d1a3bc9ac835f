package pgnotify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
)

// A Beginner begins transactions: a *[sql.DB] or a *[sql.Conn].
type Beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// InTx runs f in a transaction of db. It commits when f returns nil, and rolls back
// when f returns an error or panics; the panic continues. Nil opts mean the server's
// defaults.
//
// ctx is the context of the transaction. When it ends, the transaction is rolled back,
// after the statement under way, which is cancelled unless it has a context of its own.
// When InTx returns, a *sql.Conn is in no transaction.
//
// The error is that of BeginTx, that of f unchanged, or that of COMMIT, which may fail
// on a deferred constraint. If the session was lost while f ran, the *[DisconnectError]
// is added to f's error, unless it is there already. Any other failure of ROLLBACK is
// logged to [slog.Default].
//
// Only if f has returned nil, and COMMIT returns a DisconnectError with Sent, may the
// transaction have been committed in spite of the error. After any other error it has
// been rolled back, and can be repeated.
//
// f must not commit or roll back by itself. Inside f, do not use db for what belongs to
// the transaction; after f has returned, no goroutine may use tx.
func InTx(ctx context.Context, db Beginner, opts *sql.TxOptions, f func(tx *sql.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	ended := endOfTx(db)
	panicked := true
	defer func() {
		if panicked || err != nil {
			err = afterFailure(err, rollBack(tx, ended), "pgnotify: ROLLBACK failed")
		}
	}()
	err = f(tx)
	panicked = false
	if err != nil {
		return err
	}
	return commit(ctx, tx)
}

func commit(ctx context.Context, tx *sql.Tx) error {
	err := tx.Commit()
	if err == sql.ErrTxDone {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("pgnotify: InTx: the function has ended the transaction: %w", err)
	}
	if IsDisconnect(err) {
		return &opError{"commit", err} // unlike that of a statement in the transaction
	}
	return err
}

// rollBack rolls back, or waits until database/sql has done so on its own goroutine
// because the context has ended.
func rollBack(tx *sql.Tx, ended <-chan struct{}) error {
	err := tx.Rollback()
	if err != sql.ErrTxDone {
		return err
	}
	if ended != nil {
		<-ended
	}
	return nil
}

// endOfTx returns a channel that is closed when the transaction just begun on a session
// has ended. It is nil if that cannot be known, and for a pool, where nobody needs it.
func endOfTx(db Beginner) <-chan struct{} {
	conn, ok := db.(*sql.Conn)
	if !ok {
		return nil
	}
	pc, err := FromConn(conn)
	if err != nil {
		return nil
	}
	if t := pc.s.op.tx.Load(); t != nil {
		return t.ended
	}
	return nil
}

// afterFailure returns the error of a function whose work was undone; undoing is the
// outcome of the rollback.
func afterFailure(err, undoing error, message string) error {
	if undoing == nil {
		return err
	}
	var lost *DisconnectError
	if err != nil && errors.As(undoing, &lost) {
		if IsDisconnect(err) {
			return err
		}
		return &lostTxError{err, lost}
	}
	slog.Default().Warn(message, "error", undoing)
	return err
}

// A lostTxError is the error of a function during which the session of its transaction
// was lost.
type lostTxError struct {
	err  error
	lost *DisconnectError
}

func (e *lostTxError) Error() string   { return e.err.Error() + " (" + e.lost.Error() + ")" }
func (e *lostTxError) Unwrap() []error { return []error{e.err, e.lost} }

// savepoint is the quoted name of all savepoints: a later one hides earlier ones until
// it is released.
const savepoint = `"pgnotify.savepoint"`

// InSavepoint runs f in a savepoint of tx, which is usually a *[sql.Tx]. When f returns
// nil, the savepoint is released. When f returns an error or panics, all work since the
// savepoint is rolled back, and the transaction continues. Calls may be nested.
//
// The error is that of setting the savepoint, that of f, with what [InTx] would add to
// it, or that of releasing the savepoint: 25P02 if f has hidden the error of a
// statement, in which case the work is rolled back too.
//
// The rollback to the savepoint ignores ctx, because the transaction needs it all the
// more after a cancelled statement. If the transaction's own context has ended, the
// whole transaction is rolled back.
func InSavepoint(ctx context.Context, tx Execer, f func() error) (err error) {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT "+savepoint); err != nil {
		return err
	}
	panicked := true
	defer func() {
		if panicked || err != nil {
			err = afterFailure(err, rollBackTo(ctx, tx), "pgnotify: ROLLBACK TO SAVEPOINT failed")
		}
	}()
	err = f()
	panicked = false
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "RELEASE SAVEPOINT "+savepoint)
	return err
}

func rollBackTo(ctx context.Context, tx Execer) error {
	_, err := tx.ExecContext(context.WithoutCancel(ctx),
		"ROLLBACK TO SAVEPOINT "+savepoint+"; RELEASE SAVEPOINT "+savepoint)
	if errors.Is(err, sql.ErrTxDone) {
		return nil // all of it was rolled back
	}
	return err
}
