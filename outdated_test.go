package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A script is a sequence of queries, with S_ for a schema of its own, each with its
// arguments behind " <- ". Behind "2> " it is one of a second session of the pool; behind
// "x7 " it is run seven times, by when the server may have a plan for any argument. ␊, ␍
// and ␌ stand for the characters they name.
type script string

// run returns what the queries of a script have answered, and their errors.
func (s script) run(t *testing.T, db *sql.DB) (answers []string) {
	t.Helper()
	schema := uniqueName("s")
	first, second := borrow(t, db), borrow(t, db)
	mustExec(t, first, "create schema "+schema)
	t.Cleanup(func() {
		mustExec(t, second, "rollback; reset all")
		mustExec(t, first, "rollback; reset all; drop schema if exists "+schema+" cascade")
	})
	for line := range strings.Lines(string(s)) {
		line = strings.TrimSpace(line)
		query, list, _ := strings.Cut(strings.NewReplacer("S_", schema, "␊", "\n", "␍", "\r", "␌", "\f").Replace(line), " <- ")
		query, isSecond := strings.CutPrefix(query, "2> ")
		query, often := strings.CutPrefix(query, "x7 ")
		c, times := first, 1
		if isSecond {
			c = second
		}
		if often {
			times = 7
		}
		var args []any
		for arg := range strings.FieldsSeq(list) {
			args = append(args, arg)
		}
		for ; query != "" && times > 0; times-- {
			answers = append(answers, line+": "+strings.ReplaceAll(answer(t, c, query, args...), schema, "S_"))
		}
	}
	return answers
}

// answer returns all rows of an answer, or its error.
func answer(t *testing.T, c *sql.Conn, query string, args ...any) string {
	t.Helper()
	rows, err := c.QueryContext(testContext(t), query, args...)
	if err != nil {
		return "error"
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%T %[1]v", values))
	}
	if rows.Err() != nil {
		return "error"
	}
	return strings.Join(all, "; ")
}

// What a session itself changes makes its kept statements mean what lib/pq's would,
// which are prepared each time: of literals, names, and types.
func TestKeptStatementsMeanWhatLibpqsMean(t *testing.T) {
	t.Parallel()
	compareWithLibpq(t, map[string]script{
		"time zone": `
			set timezone = 'UTC'
			select extract(epoch from '2024-01-01 00:00'::timestamptz)::bigint, $1::int <- 1
			set timezone = 'Asia/Tokyo'
			select extract(epoch from '2024-01-01 00:00'::timestamptz)::bigint, $1::int <- 1`,
		"time zone, rolled back": `
			set timezone = 'UTC'
			begin
			set local timezone = 'Asia/Tokyo'
			select extract(epoch from '2024-01-01 00:00'::timestamptz)::bigint, $1::int <- 1
			rollback
			select extract(epoch from '2024-01-01 00:00'::timestamptz)::bigint, $1::int <- 1`,
		"styles": `
			select '02/03/2024'::date::text, extract(epoch from interval '-1 2:00')::bigint, 'a\\b', $1::int <- 1
			set datestyle = 'ISO, DMY'
			select '02/03/2024'::date::text, extract(epoch from interval '-1 2:00')::bigint, 'a\\b', $1::int <- 1
			set intervalstyle = 'sql_standard'
			select '02/03/2024'::date::text, extract(epoch from interval '-1 2:00')::bigint, 'a\\b', $1::int <- 1
			set standard_conforming_strings = off
			select '02/03/2024'::date::text, extract(epoch from interval '-1 2:00')::bigint, 'a\\b', $1::int <- 1`,
		"a schema for each tenant": `
			create schema S_a; create type S_a.mood as enum ('x'); create table S_a.t (id int, mood S_a.mood)
			create schema S_b; create type S_b.mood as enum ('x'); create table S_b.t (id int, mood S_b.mood)
			begin; set local search_path = S_a
			insert into t values ($1, $2) <- 1 x
			select * from t where id = $1 <- 1
			commit
			begin; set local search_path = S_b
			insert into t values ($1, $2) <- 2 x
			select * from t where id = $1 <- 2
			commit
			begin; set local search_path = S_a
			select * from t where id = $1 <- 1
			savepoint a
			set schema 'S_b'
			select * from t where id = $1 <- 2
			rollback to savepoint a
			select * from t where id = $1 <- 1
			rollback
			drop schema S_a, S_b cascade`,
		"the search path by a function": `
			create schema S_b; create table S_b.t (a text); create table S_.t (a int)
			select set_config('search_path', $1, false) is null <- S_
			insert into t values ($1) <- 007
			select set_config($1, $2, false) is null <- search_path S_b
			insert into t values ($1) <- 007
			select * from t where a = $1 <- 007
			drop schema S_b cascade`,
		"the search path in a block": `
			create table S_.t (a text); create temp table t (a int)
			insert into t values ($1) <- 007
			do $$ begin execute 'set search_path = S_, pg_temp'; end $$
			insert into t values ($1) <- 007
			select * from t where a = $1 <- 007
			drop table pg_temp.t`,
		"another temporary table": `
			create temp table t (a int)
			insert into t values ($1) <- 007
			drop table t; create temp table t (a text)
			insert into t values ($1) <- 007
			select * from t where a = $1 <- 007
			drop table t
			create temp table t as select $1::int as a <- 1
			select * from t where a = $1 <- 1
			drop table t`,
		"temporary tables that go at the end": `
			begin; create temp table t (a int) on commit drop
			select * from t where a = $1 <- 1
			commit
			begin; create temp table t (a int, b int) on commit drop
			select * from t where a = $1 <- 1
			commit
			begin; create temp table t (a int) on commit drop
			select * from t where a = $1 <- 1
			commit`,
		"another type, rolled back": `
			create table S_.t (a int)
			begin
			alter table S_.t alter a type text
			insert into S_.t values ($1) <- 007
			select * from S_.t where a = $1 <- 007
			rollback
			insert into S_.t values ($1) <- 7
			select * from S_.t where a = $1 <- 7
			begin; savepoint a
			/* a */ alter table S_.t alter a type text
			select * from S_.t where a = $1 <- 7
			rollback to savepoint a
			select * from S_.t where a = $1 <- 7
			commit`,
		"another function": `
			create function S_.f(int) returns text language sql as $$ select 'int' $$
			select S_.f($1) <- 1
			create function S_.f(text) returns text language sql as $$ select 'text' $$
			select S_.f($1) <- 1`,
		"null": `
			select array_to_string('{a,NULL}'::text[], ',', 'none'), $1::int <- 1
			set array_nulls = off
			select array_to_string('{a,NULL}'::text[], ',', 'none'), $1::int <- 1
			reset all
			select array_to_string('{a,NULL}'::text[], ',', 'none'), $1::int <- 1`,
	})
}

// compareWithLibpq runs scripts by both drivers.
func compareWithLibpq(t *testing.T, scripts map[string]script) {
	libpq, err := sql.Open("postgres", dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { libpq.Close() })
	ours := open(t, dsn(t))
	for name, s := range scripts {
		t.Run(name, func(t *testing.T) {
			got, want := s.run(t, ours), s.run(t, libpq)
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%s, lib/pq %s", got[i], want[i])
				}
			}
			if strings.Contains(strings.Join(want, "\n"), ": error") {
				t.Errorf("lib/pq: %q", want)
			}
		})
	}
}

// borrow returns a session of any driver until the test ends.
func borrow(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	c, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A literal that stands for the present time is read each time.
func TestNowIsNow(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	for _, literal := range []string{
		"'Now'::timestamptz", "'now()'::timestamptz", "'now ( )'::timestamptz", "'now_'::timestamptz", "$x$now$x$::timestamptz",
		`1 as "it's", 'now'::timestamptz`, `E'\x6eow'::timestamptz`, `U&'n\006Fw'::timestamptz`, "U&'n!006Fw' uescape '!'::timestamptz",
		"'n'\n'ow'::timestamptz", "'n' -- x\r'ow'::timestamptz", "timestamp /* ' */ 'now'", "'{now}'::timestamptz[]", "'[now,]'::tstzrange",
	} {
		query := "select $1::text, " + literal
		a, b := answer(t, s.Conn, query, "x"), answer(t, s.Conn, query, "x")
		if a == b || a == "error" || b == "error" {
			t.Errorf("%s: %s, then %s", query, a, b)
		}
	}
	for range 2 {
		queryValue[bool](t, s, "select 'known' < 'b' and now() < $1::timestamptz", "2000-01-01")
	}
	if got, want := kept(t, s), "select 'known' < 'b' and now() < $1::timestamptz"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// What changes no meaning costs no statement.
func TestHarmlessSettingsKeepStatements(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	for _, query := range []string{
		"set statement_timeout = 0", "set local app.role = 'x'", "select set_config('app.schema', 'y', true)",
		"update pg_class set relname = relname where false", "select 'drop', e'it\\'s' -- create", "set application_name = 'a'",
		"savepoint a; rollback to a; release a", "insert into pg_class select * from pg_class where false",
		`select 'a\b'`,
	} {
		for range 2 {
			mustExec(t, s, "begin")
			queryValue[int](t, s, "select $1::int", 7)
			mustExec(t, s, query)
			queryValue[int](t, s, "select $1::int", 7)
			mustExec(t, s, "commit")
		}
	}
	if n := queryValue[int](t, s, "select count(*) from pg_prepared_statements where name like '%\\_1'"); n != 1 {
		t.Errorf("the first statement is gone: %d", n)
	}
}

// A context that ends while a statement is prepared, when there is nothing for the
// server to cancel, ends it before it is executed.
func TestContextThatEndsWhilePreparing(t *testing.T) {
	t.Parallel()
	table := uniqueName("t")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	asked := make(chan struct{}, 10) // to cancel
	s := take(t, open(t, dsn(t), onWrite(func(p []byte) {
		switch {
		case p[0] == 'P' && strings.Contains(string(p), "insert into "+table):
			cancel()
			recv(t, asked)
		case len(p) == 16 && p[0] == 0: // a cancel request
			asked <- struct{}{}
		}
	})))
	mustExec(t, s, "create temp table "+table+" (a int)")
	pid := s.pc.PID()
	_, err := s.ExecContext(ctx, "insert into "+table+" values ($1)", 1)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := queryValue[int](t, s, "select count(*) from "+table); n != 0 {
		t.Errorf("%d rows", n)
	}
	if s.pc.PID() != pid || s.pc.TransactionStatus() != pgnotify.TransactionIdle {
		t.Error("the session is not as it was")
	}
}
