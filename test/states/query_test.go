package states_test

import (
	"context"
	"database/sql"
	"errors"
)

// query makes a call in one of the ways to make it.
func (a *actor) query(q querier) {
	r := newRequest(a.token(), a.dice)
	b := a.bound()
	defer b.cancel()
	defer a.w.watch(r.text, b.limit)()
	way := a.dice.IntN(8)
	a.w.trace.add("%s: way %d, %v: %.120s", r.token, way, b.limit, r.text)
	got := a.ask(q, b, r, way)
	got.patient, got.mayFail = true, r.breaks
	e := a.settle(r.token, b, got)
	if r.breaks && got.err == nil && got.whole && !e.odd { // an odd server may say that all went well
		a.w.fail("%s: a COPY where there cannot be one is no error", r.token)
	}
	a.spent = a.spent || r.breaks && q != querier(a.w.db)
}

func (a *actor) ask(q querier, b bound, r request, way int) (got result) {
	switch {
	case way < 3:
		var res sql.Result
		if res, got.err = q.ExecContext(b, r.text, r.args...); got.err == nil {
			got.count, got.err = res.RowsAffected()
			got.counted, got.whole = true, true
		}
	case way < 4 && r.single:
		var label, filling string
		got.err = q.QueryRowContext(b, r.text, r.args...).Scan(&label, &filling)
		if got.rows = []string{label}; got.err != nil {
			got.rows = nil
		}
		if got.err == sql.ErrNoRows {
			got.err, got.whole = nil, true
		}
	default:
		var rows *sql.Rows
		if rows, got.err = q.QueryContext(b, r.text, r.args...); got.err == nil {
			got = a.read(rows, way == 4)
		}
	}
	return got
}

// read reads the rows of a call, or only some.
func (a *actor) read(rows *sql.Rows, early bool) (got result) {
	defer rows.Close()
	most := 1 << 30
	if early {
		most = a.dice.IntN(4)
	}
	for {
		for len(got.rows) < most && rows.Next() {
			var label string
			var filling sql.RawBytes
			if got.err = rows.Scan(&label, &filling); got.err != nil {
				return got
			}
			got.rows = append(got.rows, label)
		}
		if len(got.rows) >= most || !rows.NextResultSet() {
			break
		}
	}
	got.err = rows.Err()
	if err := rows.Close(); got.err == nil {
		got.err = err
	}
	got.whole = !early
	return got
}

// prepare prepares a statement and executes it.
func (a *actor) prepare(q querier) {
	text := preparable(a.dice)
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("prepare "+text, b.limit)()
	st, err := q.PrepareContext(b, text)
	a.w.trace.add("prepared %s: %v", text, err)
	if err != nil {
		return
	}
	defer st.Close()
	for range 1 + a.dice.IntN(3) {
		a.execute(st)
	}
}

func (a *actor) execute(st *sql.Stmt) {
	r := request{token: a.token(), single: true}
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("statement", b.limit)()
	way := a.dice.IntN(6)
	a.w.trace.add("%s: way %d, %v: prepared statement", r.token, way, b.limit)
	r.args = []any{r.token.String()}
	got := a.ask(prepared{st}, b, r, way)
	got.patient = true
	got.mayFail = errors.Is(got.err, sql.ErrTxDone)
	a.settle(r.token, b, got)
}

// prepared is a querier of one statement.
type prepared struct{ *sql.Stmt }

func (p prepared) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

func (p prepared) QueryRowContext(ctx context.Context, _ string, args ...any) *sql.Row {
	return p.Stmt.QueryRowContext(ctx, args...)
}

func (p prepared) ExecContext(ctx context.Context, _ string, args ...any) (sql.Result, error) {
	return p.Stmt.ExecContext(ctx, args...)
}

func (p prepared) PrepareContext(context.Context, string) (*sql.Stmt, error) { return p.Stmt, nil }

func (a *actor) ping(ping func(context.Context) error) {
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("ping", b.limit)()
	a.w.calls.Add(1)
	err := ping(b)
	a.w.trace.add("ping: %v", err)
	if err != nil && a.w.quiet() && !a.ended(b) && !a.spent {
		a.w.fail("ping: %v", err)
	}
}
