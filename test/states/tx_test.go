package states_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/pgnotify/pgnotify"
)

// transact makes some calls in a transaction.
func (a *actor) transact(db pgnotify.Beginner) {
	b := a.bound()
	defer b.cancel()
	a.outer = b
	defer func() { a.outer = nil }()
	begun := a.w.watch("BEGIN", b.limit)
	tx, err := db.BeginTx(b, nil)
	begun()
	a.w.trace.add("begun, %v: %v", b.limit, err)
	if err != nil {
		return
	}
	for range a.dice.IntN(4) {
		switch a.dice.IntN(5) {
		case 0:
			a.copyIn(tx)
		case 1:
			_ = pgnotify.InSavepoint(b, tx, func() error {
				if a.query(tx); a.dice.IntN(2) == 0 {
					return sql.ErrNoRows
				}
				return nil
			})
		default:
			a.call(tx)
		}
	}
	defer a.w.watch("the end of a transaction", b.limit)()
	if a.dice.IntN(3) == 0 {
		err = tx.Rollback()
	} else {
		err = tx.Commit()
	}
	a.w.trace.add("transaction ended: %v", err)
}

// copyIn copies some rows.
func (a *actor) copyIn(tx *sql.Tx) {
	k := a.token()
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("COPY", b.limit)()
	got, sent := result{patient: true}, 0
	defer func() {
		if got.err == nil && got.count != int64(sent) {
			a.w.fail("%s: %d rows were copied, of %d", k, got.count, sent)
		}
		a.settle(k, b, got)
	}()
	a.w.trace.add("%s: COPY, %v", k, b.limit)
	st, err := tx.PrepareContext(b, fmt.Sprintf("COPY %q (a, b) FROM STDIN", k))
	if got.err = err; err != nil {
		return
	}
	defer st.Close()
	filling := strings.Repeat("x", size(a.dice))
	for range a.dice.IntN(20) {
		if _, got.err = st.ExecContext(b, fmt.Sprint("row ", sent), filling); got.err != nil {
			return
		}
		sent++
	}
	if a.dice.IntN(5) == 0 { // it is given up
		got.err, got.patient = context.Canceled, false
		return
	}
	var res sql.Result
	if res, got.err = st.ExecContext(b); got.err == nil {
		got.count, got.err = res.RowsAffected()
		got.counted, got.whole = true, true
	}
}
