package pgnotify_test

import (
	"database/sql"
	"fmt"
	"testing"
)

// An error tells the position in the query exactly as with lib/pq, whether the statement
// is kept or not, is new, or was used before.
func TestErrorsTellThePosition(t *testing.T) {
	t.Parallel()
	table := uniqueName("errors")
	admin := open(t, dsn(t))
	mustExec(t, admin, "create table "+table+" (a int primary key, b text check (b <> 'no'))")
	t.Cleanup(func() { mustExec(t, admin, "drop table "+table) })
	mustExec(t, admin, "insert into "+table+" values (1, 'one')")
	theirs := openLibpq(t)
	ours := map[string]*sql.DB{
		"kept":     open(t, dsn(t)),
		"not kept": open(t, dsn(t)+" statement_cache_size=0"),
	}
	for name, c := range map[string]struct {
		query string
		args  []any
	}{
		"parse":              {"select 1,\n\tselct $1", []any{1}},
		"parse, one line":    {"select nowhere + $1", []any{1}},
		"parse, wide":        {"select 'ä€😀', nowhere + $1::int\n", []any{1}},
		"bind":               {"select\n $1::int", []any{"x"}},
		"bind, no position":  {"select $1::int4", []any{"99999999999"}},
		"execute":            {"select a / $1 from " + table, []any{0}},
		"execute, position":  {"insert into " + table + "\nvalues ($1, 'x')", []any{1}},
		"check":              {"insert into " + table + " values ($1, 'no')", []any{2}},
		"function":           {"select\n pg_catalog.to_date($1, 'YYYY-MM-DD')", []any{"no date"}},
		"planning":           {"select 1 / 0 where $1", []any{true}},
		"in rows":            {"select 10 / (3 - i) + $1::int from generate_series(1, 5) i", []any{1}},
		"without a query":    {"select $1::regclass", []any{"nowhere"}},
		"in another's query": {"select pg_catalog.query_to_xml($1, true, false, '')", []any{"selct"}},
	} {
		for setting, db := range ours {
			for use := range 3 {
				want, got := errorText(t, theirs, c.query, c.args), errorText(t, db, c.query, c.args)
				if got != want {
					t.Errorf("%s, %s, use %d:\ngot  %s\nwant %s", name, setting, use, got, want)
				}
			}
		}
	}
}

// errorText describes the errors of a query as precisely as can be.
func errorText(t *testing.T, db *sql.DB, query string, args []any) (text string) {
	ctx := testContext(t)
	describe := func(err error) {
		e := serverError(t, err)
		text += fmt.Sprintf("%v\n%s\n%+v\n", e, e.ErrorWithDetail(), *e)
	}
	_, err := db.ExecContext(ctx, query, args...)
	describe(err)
	rows, err := db.QueryContext(ctx, query, args...)
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
		rows.Close()
	}
	describe(err)
	return text
}
