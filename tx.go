package pgnotify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
)

// A Beginner begins transactions: *[sql.DB] and *[sql.Conn] do.
type Beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// InTx runs f in a transaction of db: it commits when f returns nil and rolls
// back when f returns an error or panics; the panic goes on. Nil opts mean the
// server's defaults.
//
// The context is that of the transaction: when it ends, the transaction is rolled
// back, after the statement under way, which is cancelled unless it has another
// context of its own. A *sql.Conn is in no transaction when InTx returns.
//
// The error is that of f as it is, or of COMMIT, which may fail where a deferred
// constraint does. When the session was lost while f ran, the *[DisconnectError]
// is added to f's error unless it is there already. A ROLLBACK that fails otherwise
// is logged by [slog.Default]. After an error of COMMIT that is a
// DisconnectError with Sent, the outcome is unknown.
//
// f must not commit or roll back itself. Do not use db in it for what belongs to
// the transaction, and let no goroutine use the transaction when f has returned.
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
	return err
}

// rollBack rolls back, or waits until database/sql has, which does so on a
// goroutine of its own when the context has ended.
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

// endOfTx returns what is closed when the transaction has ended that a session
// has just begun, nil where that is not to be known; of a pool nobody needs to
// know it.
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

// afterFailure is the error of a function whose work was undone, with undoing as
// the outcome of that.
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

// A lostTxError is the error of a function in a transaction, during which the
// session was lost.
type lostTxError struct {
	err  error
	lost *DisconnectError
}

func (e *lostTxError) Error() string   { return e.err.Error() + " (" + e.lost.Error() + ")" }
func (e *lostTxError) Unwrap() []error { return []error{e.err, e.lost} }

// savepoint is the name of all savepoints, quoted: one that is set later hides
// those before, until it is released.
const savepoint = `"pgnotify.savepoint"`

// InSavepoint runs f within a savepoint of tx, which is a *[sql.Tx] as a rule: the
// savepoint is released when f returns nil; when f returns an error or panics,
// what was done since is rolled back, and the transaction goes on. It may be
// nested.
//
// The error is that of f as it is, with what [InTx] adds to it, or of releasing
// the savepoint: 25P02 when f has hidden the error of a statement, and then, too, all is
// rolled back that was done since.
//
// Going back to the savepoint is not bound to ctx, since the transaction needs it
// all the more after a cancelled statement; but when the transaction's own
// context has ended, all of it is rolled back anyway.
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
