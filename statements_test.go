package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// countWrites has the writes of a connector's connections counted. A request of
// lib/pq is one write.
func countWrites(writes *atomic.Int64) func(*pgnotify.Config) {
	return onWrite(func([]byte) { writes.Add(1) })
}

// kept returns the queries whose statements the session keeps on the server.
func kept(t *testing.T, s *session) string {
	t.Helper()
	return queryValue[string](t, s, "select coalesce(string_agg(statement, ' ' order by statement), '') from pg_prepared_statements")
}

// A query with arguments is prepared once; then it is one round trip.
func TestStatementsAreKept(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		s := take(t, db)
		for i := range 3 {
			if n := queryValue[int](t, s, "select $1::int + 1", i); n != i+1 {
				t.Errorf("%d", n)
			}
			mustExec(t, s, "select set_config($1, $2, false)", "pgnotify.a", fmt.Sprint(i))
		}
		if got, want := kept(t, s), "select $1::int + 1 select set_config($1, $2, false)"; got != want {
			t.Errorf("kept %q, want %q", got, want)
		}
	})
}

func TestKeptStatementIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	s := take(t, open(t, dsn(t), countWrites(&writes), func(c *pgnotify.Config) { c.StatementCacheSize = 2 }))
	roundTrips := func(query string) int64 {
		before := writes.Load()
		if n := queryValue[int](t, s, query, 7); n != 7 {
			t.Errorf("%s: %d", query, n)
		}
		return writes.Load() - before
	}
	for _, step := range []struct {
		query string
		want  int64
	}{
		{"select $1::int as a", 2},
		{"select $1::int as a", 1},
		{"select $1::int as b", 2},
		{"select $1::int as a", 1},
		{"select $1::int as c", 2}, // b, which was used longest ago, is closed on the way
		{"select $1::int as a", 1},
		{"select $1::int as b", 2},
		{"select $1::int as c", 2},
	} {
		if got := roundTrips(step.query); got != step.want {
			t.Errorf("%s: %d round trips, want %d", step.query, got, step.want)
		}
	}
	if got, want := kept(t, s), "select $1::int as b select $1::int as c"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestNoStatementIsKept(t *testing.T) {
	t.Parallel()
	for _, option := range []string{"statement_cache_size=0", "binary_parameters=yes"} {
		s := take(t, open(t, dsn(t)+" "+option))
		for range 2 {
			if n := queryValue[int](t, s, "select $1::int", 7); n != 7 {
				t.Errorf("%s: %d", option, n)
			}
		}
		if got := kept(t, s); got != "" {
			t.Errorf("%s: kept %q", option, got)
		}
	}
	s := take(t, open(t, dsn(t)))
	long := "select $1::int" + strings.Repeat(" ", 20_000)
	if n := queryValue[int](t, s, long, 7); n != 7 {
		t.Errorf("%d", n)
	}
	if n := queryValue[int](t, s, "/*/ copy */ select $1::int", 7); n != 7 { // lib/pq would take it for a COPY
		t.Errorf("%d", n)
	}
	mustExec(t, s, "select 1; select 2")
	for _, query := range []string{"select $1::int; select 2", "copy (select 1) to stdout", "/* a */ -- b\n copy pg_class from stdin"} {
		if _, err := s.ExecContext(testContext(t), query, 1); err == nil {
			t.Errorf("%s: no error", query)
		}
	}
	if got := kept(t, s); got != "" {
		t.Errorf("kept %q", got)
	}
}

// What makes a statement stale: its table has changed, or the server has lost it.
var staling = map[string]func(t *testing.T, s *session, table string){
	"ALTER TABLE": func(t *testing.T, s *session, table string) {
		mustExec(t, s, "alter table "+table+" alter id type bigint, add more text")
	},
	"DISCARD ALL":    func(t *testing.T, s *session, _ string) { mustExec(t, s, "discard all") },
	"DEALLOCATE ALL": func(t *testing.T, s *session, _ string) { mustExec(t, s, "deallocate all") },
	"DEALLOCATE within a function": func(t *testing.T, s *session, _ string) {
		mustExec(t, s, "do $$ begin execute 'deallocate all'; end $$")
	},
	"type made again": func(t *testing.T, s *session, table string) {
		mustExec(t, s, fmt.Sprintf(`alter table %[1]s drop mood; drop type %[1]s_mood;
			create type %[1]s_mood as enum ('good'); alter table %[1]s add mood %[1]s_mood`, table))
	},
	"table made again": func(t *testing.T, s *session, table string) {
		mustExec(t, s, fmt.Sprintf(`create table %[1]s_new (like %[1]s); drop table %[1]s; alter table %[1]s_new rename to %[1]s`, table))
	},
}

// makeTable makes a table for TestStaleStatement, and keeps two statements for it.
func makeTable(t *testing.T, s *session) (table string, insert, read func(ctx execQueryer) error) {
	t.Helper()
	table = uniqueName("t")
	mustExec(t, s, fmt.Sprintf("create type %[1]s_mood as enum ('good'); create table %[1]s (id int, mood %[1]s_mood)", table))
	t.Cleanup(func() { mustExec(t, s, fmt.Sprintf("drop table %[1]s; drop type %[1]s_mood", table)) })
	insert = func(db execQueryer) error {
		_, err := db.ExecContext(testContext(t), "insert into "+table+" (id, mood) values ($1, $2)", 1, "good")
		return err
	}
	read = func(db execQueryer) error {
		rows, err := db.QueryContext(testContext(t), "select * from "+table+" where id = $1", 1)
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		return rows.Close()
	}
	return table, insert, read
}

type execQueryer interface {
	execer
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// A statement that has become stale is prepared again, and what it does is done once.
func TestStaleStatement(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, _ *session) {
		for name, stale := range staling {
			t.Run(name, func(t *testing.T) {
				s := take(t, db)
				table, insert, read := makeTable(t, s)
				for range 2 { // the second is by what was kept
					for _, f := range []func(execQueryer) error{insert, read} {
						if err := f(s); err != nil {
							t.Fatal(err)
						}
					}
				}
				stale(t, s, table)
				mustExec(t, s, "delete from "+table)
				for i := range 2 {
					if err := insert(s); err != nil {
						t.Errorf("insert: %v", err)
					}
					if err := read(s); err != nil {
						t.Errorf("read: %v", err)
					}
					if n := queryValue[int](t, s, "select count(*) from "+table); n != i+1 {
						t.Errorf("%d rows after %d inserts", n, i+1)
					}
				}
			})
		}
	})
}

// Within a transaction a stale statement is an error, as the transaction has failed;
// after the rollback all is well. What tells of DEALLOCATE itself is no error.
func TestStaleStatementInATransaction(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	for name, stale := range staling {
		t.Run(name, func(t *testing.T) {
			s := take(t, db)
			table, insert, read := makeTable(t, s)
			if err := insert(s); err != nil {
				t.Fatal(err)
			}
			if err := read(s); err != nil {
				t.Fatal(err)
			}
			stale(t, s, table)
			inTx := func() error {
				return pgnotify.InTx(testContext(t), s, nil, func(tx *sql.Tx) error {
					if err := insert(tx); err != nil {
						return err
					}
					return read(tx)
				})
			}
			for range 3 { // one for each statement
				err := inTx()
				if err == nil {
					break
				}
				server, ok := asError[*pq.Error](err)
				if !ok || server.Code != "0A000" && server.Code != "26000" && server.Code != "XX000" ||
					name == "DISCARD ALL" || name == "DEALLOCATE ALL" {
					t.Error(err)
				}
			}
			if err := inTx(); err != nil {
				t.Error(err)
			}
		})
	}
}

// An error of the statement itself is not tried again.
func TestErrorOfAKeptStatement(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	s := take(t, open(t, dsn(t), countWrites(&writes)))
	for i, want := range []int64{2, 1, 1} {
		before := writes.Load()
		_, err := s.ExecContext(testContext(t), "select 1 / $1::int", 0)
		if server, ok := asError[*pq.Error](err); !ok || server.Code != "22012" {
			t.Error(err)
		}
		if got := writes.Load() - before; got != want {
			t.Errorf("run %d: %d round trips, want %d", i, got, want)
		}
	}
}

// A server, or a pooler, that loses each statement at once is asked twice.
func TestServerThatLosesStatements(t *testing.T) {
	t.Parallel()
	round := []pgfake.Step{
		pgfake.Await('H'), pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"), pgfake.Columns("n")),
		pgfake.Await('S'), pgfake.Send(pgfake.Error("ERROR", "26000", "prepared statement does not exist"), pgfake.Ready('I')),
	}
	again := append([]pgfake.Step{}, round...)
	again[1] = pgfake.Send(pgfake.Frame('3', ""), pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"), pgfake.Columns("n"))
	script := append(pgfake.Script{pgfake.Greet()}, append(round, again...)...)
	server := pgfake.Start(t, append(script, pgfake.Drain()))
	s := take(t, open(t, server.DSN()))
	_, err := s.ExecContext(testContext(t), "update accounts set n = $1", 1)
	if server, ok := asError[*pq.Error](err); !ok || server.Code != "26000" {
		t.Error(err)
	}
	if status := s.pc.TransactionStatus(); status != pgnotify.TransactionIdle {
		t.Errorf("%v", status)
	}
}

// Names of statements are unique, so that one session never runs another's behind a
// pooler.
func TestStatementNamesAreUnique(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	seen := make(map[string]bool)
	for range 3 {
		s := take(t, db)
		queryValue[int](t, s, "select $1::int", 1)
		st, err := s.PrepareContext(testContext(t), "select $1::int + 1")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		large := strings.Repeat("x", 100_000)
		if got := queryValue[string](t, s, "select $1::text", large); got != large {
			t.Errorf("%d bytes", len(got))
		}
		rows, err := s.QueryContext(testContext(t), "select name from pg_prepared_statements")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		n := 0
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			if seen[name] || len(name) < 16 {
				t.Errorf("name %q", name)
			}
			seen[name] = true
			n++
		}
		if n != 3 {
			t.Errorf("%d statements", n)
		}
	}
}

// The server keeps the types of a statement's arguments when another program gives a
// column another one. Errors that come of that do not last.
func TestStatementWhoseColumnHasAnotherType(t *testing.T) {
	t.Parallel()
	db, others := open(t, dsn(t)), open(t, dsn(t))
	for name, c := range map[string]struct {
		from, to, query string
		first, then     any
	}{
		"no such operator": {"int", "text", "select id::text from %s where id = $1", "1", "1"},
		"no such cast":     {"text", "int using id::int", "insert into %s (id) values ($1)", "1", "2"},
		"out of range":     {"int", "bigint", "insert into %s (id) values ($1)", "1", "3000000000"},
		"no number":        {"int", "text", "insert into %s (id) values ($1)", "1", "abc"},
		"no date":          {"date", "text", "insert into %s (id) values ($1)", "2024-02-29", "2023-02-29"},
		"no zone":          {"timestamptz", "text", "insert into %s (id) values ($1)", "2024-02-29", "2024-02-29 00:00 No/Where"},
		"no range":         {"int4range", "text", "insert into %s (id) values ($1)", "[1,2)", "[2,1)"},
		"no interval":      {"interval", "text", "insert into %s (id) values ($1)", "1 day", "999999999999 years"},
		"no JSON":          {"jsonb", "json using id::text::json", "insert into %s (id) values ($1)", "1", `"\u0000"`},
		"not allowed":      {"information_schema.cardinal_number", "int", "insert into %s (id) values ($1)", 1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			s, other := take(t, db), take(t, others)
			table := uniqueName("t")
			mustExec(t, other, fmt.Sprintf("create table %s (id %s)", table, c.from))
			t.Cleanup(func() { mustExec(t, db, "drop table "+table) })
			query := fmt.Sprintf(c.query, table)
			mustExec(t, s, query, c.first)
			mustExec(t, other, fmt.Sprintf("alter table %s alter id type %s", table, c.to))
			inTx := func() error {
				return pgnotify.InTx(testContext(t), s, nil, func(tx *sql.Tx) error {
					_, err := tx.ExecContext(testContext(t), query, c.then)
					return err
				})
			}
			if err := inTx(); err == nil {
				t.Error("no error in a transaction")
			}
			if err := inTx(); err != nil {
				t.Errorf("in the next transaction: %v", err)
			}
			mustExec(t, other, fmt.Sprintf("truncate %[1]s; alter table %[1]s alter id type %[2]s using null", table, c.from))
			mustExec(t, s, "deallocate all")
			mustExec(t, s, query, c.first)
			mustExec(t, other, fmt.Sprintf("alter table %s alter id type %s", table, c.to))
			mustExec(t, s, query, c.then)
		})
	}
}

// An argument that the server cannot read costs the statement no more than being
// prepared again.
func TestArgumentThatTheServerCannotRead(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	for range 3 {
		_, err := s.ExecContext(testContext(t), "select $1::int", "x")
		if server, ok := asError[*pq.Error](err); !ok || server.Code != "22P02" {
			t.Error(err)
		}
		if n := queryValue[int](t, s, "select $1::int", 7); n != 7 {
			t.Errorf("%d", n)
		}
	}
	if n := queryValue[int](t, s, "select count(*) from pg_prepared_statements"); n != 1 {
		t.Errorf("%d statements", n)
	}
}

// An error before the Close of a statement is answered, such as a conflict with
// recovery, does not cost a later CloseComplete.
func TestErrorBeforeCloseComplete(t *testing.T) {
	t.Parallel()
	parsed := [][]byte{pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"), pgfake.Columns("n")}
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(),
		pgfake.Await('H'), pgfake.Send(parsed...),
		pgfake.Await('S'), pgfake.Send(pgfake.Frame('2', ""), pgfake.Complete("UPDATE 1"), pgfake.Ready('I')),
		pgfake.Await('H'), pgfake.Send(pgfake.Error("ERROR", "40001", "conflict with recovery")), // Close, Parse
		pgfake.Await('S'), pgfake.Send(pgfake.Ready('I')),
		pgfake.Await('S'), pgfake.Send(append(parsed, pgfake.Ready('I'))...),
		pgfake.Await('S'), pgfake.Send(pgfake.Frame('3', ""), pgfake.Ready('I')),
		pgfake.Serve()})
	s := take(t, open(t, server.DSN(), func(c *pgnotify.Config) { c.StatementCacheSize = 1 }))
	mustExec(t, s, "update a set n = $1", 1)
	if _, err := s.ExecContext(testContext(t), "update b set n = $1", 1); err == nil {
		t.Error("no error")
	}
	st, err := s.PrepareContext(testContext(t), "update c set n = $1")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err := s.PingContext(testContext(t)); err != nil {
		t.Error(err)
	}
}

// A prepared statement that is closed while rows of another one are open is closed with
// the next one that is prepared, also by a later borrower.
func TestStatementClosedWhileRowsAreOpen(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	db.SetMaxOpenConns(1)
	tx, err := db.BeginTx(testContext(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	st, err := tx.PrepareContext(testContext(t), "select 42 + $1::int")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := tx.QueryContext(testContext(t), "select generate_series(1, 10)")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	left := queryValue[string](t, db, "select coalesce(string_agg(statement, ' '), '') from pg_prepared_statements where statement like $1", "%42%")
	if left != "" {
		t.Errorf("left: %q", left)
	}
}
