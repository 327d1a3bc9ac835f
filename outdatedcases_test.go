package pgnotify_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// shadow makes a table t (x int) in front of t (x text), so that the argument 007 of an
// INSERT shows by what the statement went: by the name and the type at the time.
const (
	shadow = `
			create schema S_a; create schema S_b; create table S_a.t (x text); create table S_b.t (x int)
			set search_path = S_b, public
			insert into t values ($1) <- 007
			`
	seen = `
			insert into t values ($1) <- 007
			select x::text from S_a.t union all select x::text from S_b.t
			reset search_path
			drop schema S_a, S_b cascade`
)

// Any other way to change settings.
func TestKeptStatementsAfterSettings(t *testing.T) {
	t.Parallel()
	compareWithLibpq(t, map[string]script{
		"a name in mixed case":        shadow + "select Set_Config('search_path', 'S_a', false) is null" + seen,
		"a qualified name":            shadow + "select Pg_Catalog.Set_config($1, 'S_a', false) is null <- search_path" + seen,
		"a quoted name":               shadow + `select pg_catalog."set_config"($1, 'S_a', false) is null <- search_path` + seen,
		"an escaped name":             shadow + `select U&"set\005fconfig"($1, 'S_a', false) is null <- search_path` + seen,
		"an escaped setting":          shadow + `select set_config(E'search\x5fpath', 'S_a', false) is null` + seen,
		"a computed setting":          shadow + "select set_config('search' || $1, 'S_a', false) is null <- _path" + seen,
		"a setting of a table":        shadow + "select set_config(name, 'S_a', false) is null from (values ('search_path')) a (name)" + seen,
		"a setting of JSON":           shadow + `select set_config(key, value, false) is null from json_each_text($1) <- {"search_path":"S_a"}` + seen,
		"the view":                    shadow + "update pg_settings set setting = 'S_a' where name = $1 <- search_path" + seen,
		"the view, no argument":       shadow + "update Pg_Settings set setting = 'S_a' where name = 'search_path'" + seen,
		"an escaped name of SET":      shadow + `set U&"search\005fpath" = S_a` + seen,
		"a semicolon in a literal":    shadow + "select ';'; set search_path = S_a" + seen,
		"a comment with a quote":      shadow + "select 1 /* ' */; set search_path = S_a --'" + seen,
		"behind a nested comment":     shadow + "/* a /* b */ c */ set search_path = S_a" + seen,
		"behind a form feed":          shadow + "/* a */␌set search_path = S_a" + seen,
		"behind a carriage return":    shadow + "-- a␍set search_path = S_a" + seen,
		"behind a short comment":      shadow + "/*/ x */ set search_path = S_a" + seen,
		"as a cursor":                 shadow + "begin; declare c cursor for select set_config('search_path', 'S_a', false) is null; fetch c; commit" + seen,
		"as a cursor, step by step":   shadow + "begin\n declare c cursor for select set_config('search_path', 'S_a', false) is null\n insert into t values ($1) <- 008\n fetch c\n commit" + seen,
		"RESET with a comment inside": shadow + "set search_path = S_a\n insert into t values ($1) <- 008\n reset/*x*/all\n set search_path = S_b" + seen,
		"EXECUTE": shadow + `
			prepare p as select set_config('search_path', $1, false) is null
			insert into t values ($1) <- 008
			execute p('S_a')` + seen + `
			deallocate p`,
		"CALL": shadow + `
			create procedure S_.p(s text) language plpgsql as $$ begin perform set_config('search_path', s, false); end $$
			insert into t values ($1) <- 008
			call S_.p('S_a')` + seen,
		"CALL with an argument": shadow + `
			create procedure S_.p(s text) language plpgsql as $$ begin perform set_config('search_path', s, false); end $$
			insert into t values ($1) <- 008
			call S_.p($1) <- S_a` + seen,
		"a plan for any argument": `
			x7 select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			set bytea_output = 'escape'
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			set extra_float_digits = -10
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			x7 select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			begin
			set local bytea_output = 'hex'
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			savepoint a
			select set_config($1, $2, true) <- extra_float_digits 0
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			rollback to a
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1
			rollback
			select '\x00ff'::bytea::text, (1::float8/3)::text, $1::int <- 1`,
		"a role, by a function": `
			create role S_; create table S_.t (x int); create temp table t (x text); grant all on S_.t, pg_temp.t to S_; grant usage on schema S_ to S_
			create function S_.go() returns text language sql as $$ select set_config('role', 'S_', false) $$
			set search_path = "$user", pg_temp
			insert into t values ($1) <- 007
			select S_.go()
			insert into t values ($1) <- 007
			reset role
			select x::text from S_.t union all select x from pg_temp.t
			discard temp; drop owned by S_; drop role S_`,
		"a setting for a plan": `
			set plan_cache_mode = force_generic_plan
			select (1::float8/3)::text, $1::int <- 1
			set extra_float_digits = -10
			select (1::float8/3)::text, $1::int <- 1`,
	})
}

// Any other way to make and drop tables and functions.
func TestKeptStatementsAfterTables(t *testing.T) {
	t.Parallel()
	const (
		table = `
			set search_path = pg_temp, S_; create table S_.t (x text)
			insert into t values ($1) <- 007
			`
		then = `
			insert into t values ($1) <- 007
			discard temp
			insert into t values ($1) <- 007
			select * from t`
		temp = `
			set search_path = pg_temp, S_; create table S_.t (x text); create temp table t (x int)
			insert into t values ($1) <- 007
			`
		gone = `
			insert into t values ($1) <- 007
			select * from t`
	)
	compareWithLibpq(t, map[string]script{
		"SELECT INTO":             table + "select 1 as x into temp t" + then,
		"SELECT INTO, arguments":  table + "select $1::int as x into temp t <- 1" + then,
		"SELECT INTO in brackets": table + "(select 1 as x into temp t)" + then,
		"WITH":                    table + "with a as (select 1 as x) select * into temp t from a" + then,
		"EXPLAIN ANALYZE":         table + "explain (analyze, costs off, timing off, summary off) create temp table t as select 1 as x; select 1" + then,
		"in front of the table": `
			create schema S_a; set search_path = S_a, S_; create table S_.t (x text)
			insert into t values ($1) <- 007
			select 1 as x into S_a.t
			insert into t values ($1) <- 007
			select * from t
			drop schema S_a cascade`,
		"rolled back": table + `
			begin
			select 1 as x into temp t
			insert into t values ($1) <- 007
			rollback
			insert into t values ($1) <- 007
			begin
			with a as (select 1 as x) select * into temp t from a
			insert into t values ($1) <- 007
			rollback
			insert into t values ($1) <- 007
			begin
			explain (analyze, costs off, timing off, summary off) create temp table t as select 1 as x; select 1
			insert into t values ($1) <- 007
			rollback
			insert into t values ($1) <- 007
			select * from t`,
		"rolled back to a savepoint": table + `
			begin; savepoint a
			select 1 as x into temp t
			insert into t values ($1) <- 007
			rollback to a
			insert into t values ($1) <- 007
			with a as (select 1 as x) select * into temp t from a
			insert into t values ($1) <- 007
			rollback to a
			insert into t values ($1) <- 007
			select $1::int as x into temp t <- 1
			insert into t values ($1) <- 007
			rollback to a
			insert into t values ($1) <- 007
			commit
			insert into t values ($1) <- 007
			select * from t`,
		"DISCARD TEMP":      temp + "discard temp" + gone,
		"DISCARD TEMPORARY": temp + "discard temporary" + gone,
		"DISCARD PLANS":     temp + "discard plans" + gone + "\n discard temp",
		"DISCARD TEMP, rolled back": temp + `
			begin
			discard temp
			insert into t values ($1) <- 007
			rollback
			insert into t values ($1) <- 007
			select * from t
			discard temp`,
		"DROP behind a nested comment":  temp + "/* a /* b */ c */ drop table pg_temp.t" + gone,
		"DROP behind a form feed":       temp + "/**/␌drop table pg_temp.t" + gone,
		"DROP behind a carriage return": temp + "-- a␍drop table pg_temp.t" + gone,
		"DROP behind a short comment":   temp + "/*/ x */ drop table pg_temp.t" + gone,
		"COMMIT PREPARED": `
			create function S_.f(int) returns text language sql as $$ select 'int' $$
			begin; create function S_.f(text) returns text language sql as $$ select 'text' $$; prepare transaction 'S_'
			select S_.f($1) <- 1
			select S_.f($1) <- 1
			commit prepared 'S_'
			select S_.f($1) <- 1
			begin; drop function S_.f(text); prepare transaction 'S_'
			rollback prepared 'S_'
			select S_.f($1) <- 1`,
		"REVOKE and GRANT": `
			create role S_; grant create, usage on schema S_ to S_
			set search_path = S_, public; set role S_
			create table S_.t (x int); create temp table t (x text)
			set search_path = S_, pg_temp
			insert into t values ($1) <- 007
			reset role
			grant all on pg_temp.t to S_
			revoke all on schema S_ from S_
			set role S_
			select count(*) from t where x::text <> $1 <- 1
			insert into t values ($1) <- 007
			reset role; grant usage on schema S_ to S_; set role S_
			insert into t values ($1) <- 007
			reset role
			select * from pg_temp.t
			discard temp; drop owned by S_; drop role S_`,
		"REVOKE by the owner": `
			create role S_; create schema S_a authorization S_; grant usage on schema S_ to S_
			create table S_.t (x text); create table S_a.t (x int); grant all on S_.t, S_a.t to S_
			set search_path = S_a, S_; set role S_
			insert into t values ($1) <- 007
			revoke usage on schema S_a from S_
			insert into t values ($1) <- 007
			grant usage on schema S_a to S_
			insert into t values ($1) <- 008
			reset role
			select * from S_.t
			select * from S_a.t
			drop table S_a.t; drop owned by S_; drop role S_`,
	})
}

// A keyword may be an alias.
func TestKeptStatementsAfterSelectIntoWithAnAlias(t *testing.T) {
	t.Parallel()
	needsServer(t, 14, "an alias named insert, without AS")
	compareWithLibpq(t, map[string]script{"SELECT INTO": `
		set search_path = pg_temp, S_; create table S_.t (x text)
		insert into t values ($1) <- 007
		select 1 as x, 2 insert into temp t␊;alter table t drop insert
		insert into t values ($1) <- 007
		discard temp
		insert into t values ($1) <- 007
		select * from t`})
}

// What another session of the pool changes.
func TestKeptStatementsOfAnotherSession(t *testing.T) {
	t.Parallel()
	compareWithLibpq(t, map[string]script{
		"an overload": `
			create function S_.f(int) returns text language sql as $$ select 'int' $$
			2> select S_.f($1) <- 1
			create function S_.f(text) returns text language sql as $$ select 'text' $$
			2> select S_.f($1) <- 1
			2> begin
			2> select S_.f($1) <- 1
			begin
			drop function S_.f(text)
			rollback
			2> select S_.f($1) <- 1
			drop function S_.f(text)
			2> select S_.f($1) <- 1
			2> commit`,
		"a table in front": `
			create schema S_a; create table S_.t (x text)
			2> set search_path = S_a, S_
			2> insert into t values ($1) <- 007
			create table S_a.t (x int)
			2> insert into t values ($1) <- 007
			select 1 as x into S_a.u; create table S_.u (x text)
			2> insert into u values ($1) <- 007
			drop table S_a.u
			2> insert into u values ($1) <- 007
			2> select * from t
			2> select * from u
			drop schema S_a cascade`,
		"a type": `
			create table S_.t (x int)
			2> insert into S_.t values ($1) <- 007
			alter table S_.t alter x type text
			2> insert into S_.t values ($1) <- 007
			2> select * from S_.t where x <> $1 <- 8
			2> begin
			2> insert into S_.t values ($1) <- 7
			2> commit
			begin
			alter table S_.t alter x type int using x::int
			commit
			2> begin
			2> insert into S_.t values ($1) <- 007
			2> select * from S_.t where x <> $1 <- 8
			2> commit`,
		"a chain of transactions": `
			create table S_.t (x int)
			2> insert into S_.t values ($1) <- 007
			begin
			alter table S_.t alter x type text
			commit and chain
			2> insert into S_.t values ($1) <- 007
			alter table S_.t alter x type int using x::int
			commit; begin
			2> insert into S_.t values ($1) <- 007
			commit
			select * from S_.t`,
		"the values of an enum": `
			create type S_.mood as enum ('x', 'y'); create table S_.t (m S_.mood, id int); insert into S_.t values ('x', 1), ('y', 2)
			2> select id from S_.t where m = 'x' and id > $1 <- 0
			alter type S_.mood rename value 'x' to 'z'; alter type S_.mood rename value 'y' to 'x'
			2> select id from S_.t where m = 'x' and id > $1 <- 0`,
		"a block and a procedure": `
			create table S_.t (x int)
			create procedure S_.p() language plpgsql as $$ begin alter table S_.t alter x type int using x::int; end $$
			2> insert into S_.t values ($1) <- 007
			do $$ begin execute 'alter table S_.t alter x type text'; end $$
			2> insert into S_.t values ($1) <- 007
			call S_.p()
			2> insert into S_.t values ($1) <- 007
			select * from S_.t`,
		"two phases": `
			create table S_.t (x int)
			2> insert into S_.t values ($1) <- 007
			begin; alter table S_.t alter x type text; prepare transaction 'S_'
			commit prepared 'S_'
			2> insert into S_.t values ($1) <- 007
			select * from S_.t`,
	})
}

// What one session does for itself costs no statement of another session, nor does a
// change that is not committed yet; a change costs it once.
func TestOtherSessionsKeepStatements(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	s, other := take(t, db), take(t, db)
	prepared := func() (n int) { // so often
		queryValue[int](t, s, "select $1::int", 7)
		return queryValue[int](t, s, "select max(substring(name from '_(.*)'))::int from pg_prepared_statements")
	}
	table := uniqueName("t")
	for _, step := range []struct {
		query string
		want  int
	}{
		{"set search_path = public", 1},
		{"select set_config('search_path', 'public', false)", 1},
		{"create temp table t (a int)", 1},
		{"discard temp", 1},
		{"begin; create table " + table + " (a int)", 1},
		{"savepoint a; rollback to a", 1},
		{"commit", 2},
		{"begin", 2},
		{"alter table " + table + " add b int; set local search_path = public", 2},
		{"commit and chain", 3},
		{"commit", 4}, // it is not known that nothing was changed
		{"select 1", 4},
		{"drop table " + table, 5},
	} {
		prepared()
		mustExec(t, other, step.query)
		if got := prepared(); got != step.want {
			t.Fatalf("%s: prepared %d times, want %d", step.query, got, step.want)
		}
	}
	for range 3 {
		queryValue[int](t, other, "select $1::int", 7)
	}
	if n := queryValue[int](t, other, "select count(*) from pg_prepared_statements"); n != 1 {
		t.Errorf("%d statements", n)
	}
}

// The same for a change by a prepared statement, and by a transaction of database/sql.
func TestStatementsAfterPreparedChanges(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	s, other := take(t, db), take(t, db)
	table := uniqueName("t")
	mustExec(t, s, "create table "+table+" (x int)")
	t.Cleanup(func() { mustExec(t, db, "drop table "+table) })
	insert := func(want string) {
		t.Helper()
		for _, s := range []*session{s, other} {
			if got := queryValue[string](t, s, "insert into "+table+" values ($1) returning x::text", "007"); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
	change := func(db interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}, to string) {
		t.Helper()
		st, err := db.PrepareContext(testContext(t), "alter table "+table+" alter x type "+to+" using x::"+to)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if _, err := st.ExecContext(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	insert("7")
	change(other, "text")
	insert("007")
	tx := mustBegin(t, other)
	change(tx, "int")
	mustCommit(t, tx)
	insert("7")
	if err := pgnotify.InTx(testContext(t), other, nil, func(tx *sql.Tx) error {
		change(tx, "text")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	insert("007")
}

// A kept statement gets a plan for any arguments after five executions, unless the DSN
// says otherwise.
func TestPlanForAnyArguments(t *testing.T) {
	t.Parallel()
	needsServer(t, 14, "custom_plans")
	for option, want := range map[string]int{"": 5, "plan_cache_mode=force_custom_plan": 10} {
		s := take(t, open(t, dsn(t)+" "+option))
		for i := range 10 {
			queryValue[int](t, s, "select $1::int", i)
		}
		if got := queryValue[int](t, s, "select custom_plans from pg_prepared_statements"); got != want {
			t.Errorf("%q: %d plans for the arguments, want %d", option, got, want)
		}
	}
}
