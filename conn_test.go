package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// rawParts hands out a connection of lib/pq or pgnotify and what comes of it:
// rows, a statement, a transaction, a COPY and a result.
func rawParts(t *testing.T, driverName string) map[string]any {
	t.Helper()
	ctx := testContext(t)
	db, err := sql.Open(driverName, dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	parts := make(map[string]any)
	take := func(name string, part any, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s: %v", driverName, name, err)
		}
		parts[name] = part
	}
	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Raw(func(conn any) error {
		take("connection", conn, nil)
		rows, err := conn.(driver.QueryerContext).QueryContext(ctx, "select 1", nil)
		take("rows", rows, err)
		rows.Close()
		stmt, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "select 1")
		take("statement", stmt, err)
		stmt.Close()
		result, err := conn.(driver.ExecerContext).ExecContext(ctx, "create temp table parts (a int)", nil)
		take("result", result, err)
		tx, err := conn.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
		take("transaction", tx, err)
		in, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "copy parts from stdin")
		take("COPY", in, err)
		in.Close()
		return tx.Rollback()
	})
	if err != nil {
		t.Fatalf("%s: %v", driverName, err)
	}
	return parts
}

// W2: whatever can be called on lib/pq's values, and so each of their optional
// interfaces, is there on ours.
func TestNoMethodOfLibpqIsLost(t *testing.T) {
	t.Parallel()
	theirs, ours := rawParts(t, "postgres"), rawParts(t, "pgnotify")
	for name, their := range theirs {
		if name == "transaction" { // lib/pq's is the connection itself
			continue
		}
		want, got := reflect.TypeOf(their), reflect.TypeOf(ours[name])
		for i := range want.NumMethod() {
			m := want.Method(i)
			if name == "connection" && (m.Name == "Commit" || m.Name == "Rollback") {
				continue // they are the transaction's
			}
			g, ok := got.MethodByName(m.Name)
			if !ok {
				t.Errorf("%s: %v has no method %s", name, got, m.Name)
				continue
			}
			if a, b := signature(m.Type), signature(g.Type); a != b {
				t.Errorf("%s.%s: %s, lib/pq's is %s", name, m.Name, b, a)
			}
		}
	}
}

// signature describes a method without its receiver.
func signature(f reflect.Type) string {
	var b strings.Builder
	for i := 1; i < f.NumIn(); i++ {
		fmt.Fprintf(&b, "%v,", f.In(i))
	}
	b.WriteString(" -> ")
	for i := range f.NumOut() {
		fmt.Fprintf(&b, "%v,", f.Out(i))
	}
	return b.String()
}

// W2: NamedValueChecker.
func TestArguments(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx := testContext(t)
		for _, c := range []struct {
			query string
			arg   any
			want  string
		}{
			{"$1::int[]", []int{1, 2, 3}, "{1,2,3}"},
			{"$1::bigint[]", pq.Array([]int64{4, 5}), "{4,5}"},
			{"$1::text[]", []string{"a", `b"`, "c,d"}, `{a,"b\"","c,d"}`},
			{"$1::text[]", pq.Array([]string{}), "{}"},
			{"$1::bool[]", []bool{true, false}, "{t,f}"},
			{"$1::int[]", pq.Array([][]int{{1, 2}, {3, 4}}), "{{1,2},{3,4}}"},
			{"$1::numeric", uint64(math.MaxUint64), "18446744073709551615"},
			{"$1::bigint", uint64(math.MaxInt64), "9223372036854775807"},
			{"$1::bigint", uint64(7), "7"},
			{"encode($1::bytea, 'hex')", []byte{0, 255}, "00ff"},
			{"$1", pgnotify.DriverName, "pgnotify"},
			{"coalesce($1::text, 'null')", nil, "null"},
			{"coalesce($1::text, 'null')", (*string)(nil), "null"},
		} {
			for range 2 {
				if got := queryValue[string](t, s, "select ("+c.query+")::text", c.arg); got != c.want {
					t.Errorf("%s with %#v: %q, want %q", c.query, c.arg, got, c.want)
				}
			}
			st, err := s.PrepareContext(ctx, "select ("+c.query+")::text")
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if err := st.QueryRowContext(ctx, c.arg).Scan(&got); err != nil || got != c.want {
				t.Errorf("prepared %s with %#v: %q, %v; want %q", c.query, c.arg, got, err, c.want)
			}
			st.Close()
		}
		if _, err := s.ExecContext(ctx, "select $1::text", map[string]int{}); err == nil {
			t.Error("a map as an argument gave no error")
		}
	})
}

// W2: NextResultSet.
func TestSeveralResultSets(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		rows, err := s.QueryContext(testContext(t), "select 1 as a; select 2 as b, 'x' as c union all select 3, 'y' order by b; select where false; select 4 as d")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var got []string
		for more := true; more; more = rows.NextResultSet() {
			columns, err := rows.Columns()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.Join(columns, ","))
			for rows.Next() {
				values, into := scanTargets(len(columns))
				if err := rows.Scan(into...); err != nil {
					t.Fatal(err)
				}
				got = append(got, strings.TrimSpace(fmt.Sprintln(values...)))
			}
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
		}
		if want := []string{"a", "1", "b,c", "2 x", "3 y", "", "d", "4"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		rows.Close()
		queryValue[int](t, s, "select 1")
	})
}

func scanTargets(n int) (values, into []any) {
	values, into = make([]any, n), make([]any, n)
	for i := range values {
		into[i] = &values[i]
	}
	return values, into
}

// An outcome is all that a statement gives: columns with their types, values,
// the error.
func outcome(t *testing.T, db *sql.DB, query string, args []any) string {
	t.Helper()
	ctx := testContext(t)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b strings.Builder
	queryOutcome(&b, conn, ctx, query, args)
	b.WriteString("\nexec:")
	result, err := conn.ExecContext(ctx, query, args...)
	if err == nil {
		n, err := result.RowsAffected()
		_, idErr := result.LastInsertId()
		fmt.Fprint(&b, n, err, idErr)
	}
	errorOutcome(&b, err)
	if st, err := conn.PrepareContext(ctx, query); err != nil {
		b.WriteString("\nprepare:")
		errorOutcome(&b, err)
	} else {
		b.WriteString("\nprepared:")
		queryOutcome(&b, stmtQueryer{st}, ctx, query, args)
		st.Close()
	}
	return b.String()
}

// A stmtQueryer queries a prepared statement.
type stmtQueryer struct{ st *sql.Stmt }

func (q stmtQueryer) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return q.st.QueryContext(ctx, args...)
}

func queryOutcome(b *strings.Builder, db rowsQueryer, ctx context.Context, query string, args []any) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		errorOutcome(b, err)
		return
	}
	defer rows.Close()
	for more := true; more; more = rows.NextResultSet() {
		types, err := rows.ColumnTypes()
		errorOutcome(b, err)
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasScale := c.DecimalSize()
			nullable, knowsNull := c.Nullable()
			fmt.Fprintln(b, c.Name(), c.DatabaseTypeName(), c.ScanType(), length, hasLength, precision, scale, hasScale, nullable, knowsNull)
		}
		for rows.Next() {
			values, into := scanTargets(len(types))
			errorOutcome(b, rows.Scan(into...))
			for _, v := range values {
				fmt.Fprintf(b, "%T %.60v|", v, v)
			}
		}
		errorOutcome(b, rows.Err())
	}
}

func errorOutcome(b *strings.Builder, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(b, "error %q", err)
	if e, ok := asError[*pq.Error](err); ok {
		fmt.Fprintf(b, " %+v", *e)
	}
}

// W2: the same statements give the same on lib/pq and on pgnotify.
func TestStatementsGiveTheSameAsOnLibpq(t *testing.T) {
	t.Parallel()
	dsn := dsn(t) + " timezone=UTC intervalstyle=postgres application_name=" + appName
	theirs, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	ours := open(t, dsn)
	theirs.SetMaxIdleConns(0) // lib/pq hands open transactions on
	mode := []string{"", " binary_parameters=yes", " disable_prepared_binary_result=yes"}
	table := "compat_" + uniqueName("w2")
	mustExec(t, ours, "create table "+table+" (a int primary key, b varchar(10) not null, c numeric(10,2))")
	t.Cleanup(func() { mustExec(t, ours, "drop table "+table) })
	statements := []struct {
		query string
		args  []any
	}{
		{"select 1::int2, 2::int4, 3::int8, 4.5::float4, 5.5::float8, 6.25::numeric, 7.125::numeric(10,3)", nil},
		{"select true, 'a'::text, 'b'::varchar(10), 'c'::char(3), 'd'::name, '\\x00ff'::bytea, 'e'::\"char\"", nil},
		{"select 'epoch'::timestamp, 'epoch'::timestamptz, 'epoch'::date, '12:34:56.7'::time, '12:34:56+02'::timetz, '1 day 2:03'::interval", nil},
		{"select 'infinity'::timestamptz, '2024-01-01 BC'::date, '10000-01-01'::timestamp", nil},
		{"select '11111111-2222-3333-4444-555555555555'::uuid, '{\"a\": 1}'::json, '{\"a\": 1}'::jsonb, '10.0.0.1'::inet, '(1,2)'::point, '5'::money, '101'::bit(3)", nil},
		{"select array[1,2,null]::int[], array['a','b c'], '{{1,2},{3,4}}'::int[][], int4range(1, 5), row(1, 'x')", nil},
		{"select null, null::int, ''::text, 'NaN'::float8, '-Infinity'::float8, oid(7), xid '9', 'pg_class'::regclass", nil},
		{"select $1::int + 1, $2::text, $3::bytea, $4::bool, $5::float8, $6::timestamptz", []any{41, "ü", []byte{1, 2}, true, 1.5, "2024-05-06 07:08:09+00"}},
		{"select $1::int[], $2::text[], $3::numeric", []any{pq.Array([]int{1, 2}), []string{"a", "b"}, uint64(math.MaxUint64)}},
		{"select generate_series(1, 50), repeat('x', 1000)", nil},
		{"select repeat('long ', 40000)", nil},
		{"select", nil}, {"", nil}, {";", nil}, {"-- nothing", nil},
		{"select 1; select 'two'; select 3 where false", nil},
		{"select 1; select 1/0; select 2", nil},
		{"select 10 / (3 - i) from generate_series(1, 5) i", nil},
		{"select 1/0", nil}, {"select 1/$1::int", []any{0}},
		{"selct 1", nil}, {"select * from nowhere", nil}, {"select nowhere", nil}, {"select 'x'::int", nil}, {"select $1::int", []any{"x"}},
		{"select $1::int", nil}, {"select 1", []any{1}}, {"select $1::int, $2::int", []any{1}},
		{"insert into " + table + " values (1, 'one', 1.5), (2, 'two', null)", nil},
		{"insert into " + table + " values (1, 'again', 1)", nil},
		{"insert into " + table + " values ($1, $2, $3)", []any{3, "much too long for it", 1}},
		{"insert into " + table + " values ($1, null, null)", []any{4}},
		{"select * from " + table + " order by a", nil},
		{"update " + table + " set c = 9.99 where a < $1 returning a, b, c", []any{100}},
		{"delete from " + table + " where a = $1", []any{1}},
		{"truncate " + table, nil},
		{"show datestyle", nil}, {"set work_mem = '8MB'", nil}, {"explain (costs off) select 1", nil}, {"values (1, 'a'), (2, 'b')", nil},
		{"begin", nil}, {"begin; commit", nil}, {"rollback", nil}, {"begin; select 1/0", nil},
		{"do $$ begin raise notice 'x'; end $$", nil}, {"do $$ begin raise exception 'own %', 1 using errcode = 'P0077', detail = 'd', hint = 'h'; end $$", nil},
		{"create temp table w2 (a int)", nil}, {"listen w2", nil}, {"unlisten *", nil}, {"vacuum " + table, nil},
		{"declare c cursor for select 1", nil}, {"begin; declare c cursor for select generate_series(1, 3); fetch all from c; commit", nil},
		{"select '\xff'", nil},
	}
	for _, m := range mode {
		theirs, ours := theirs, ours
		if m != "" {
			if theirs, err = sql.Open("postgres", dsn+m); err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			theirs.SetMaxIdleConns(0)
			ours = open(t, dsn+m)
		}
		for _, s := range statements {
			want := outcome(t, theirs, s.query, s.args)
			mustExec(t, theirs, "truncate "+table)
			got := outcome(t, ours, s.query, s.args)
			mustExec(t, ours, "truncate "+table)
			if got != want {
				t.Errorf("%s%.60q %v:\ngot  %s\nwant %s", m, s.query, s.args, got, want)
			}
		}
	}
}

// W2: Pinger, and that a session that fails is not used.
func TestPing(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		if err := s.PingContext(testContext(t)); err != nil {
			t.Error(err)
		}
		queryValue[bool](t, db, "select pg_terminate_backend($1)", s.pc.PID())
		until(t, "the ping fails", func() bool { return s.PingContext(testContext(t)) != nil })
	})
}

// D16
func TestLongErrors(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, pid := testContext(t), s.pc.PID()
		mustExec(t, s, `create or replace function pg_temp.fail(i int, size int) returns int language plpgsql as $$ begin
			if i = 100 then raise exception using message = 'M' || repeat('ü', size / 2), detail = 'D' || repeat('d', size), hint = 'the end'; end if;
			return i; end $$`)
		mustExec(t, s, `create or replace function pg_temp.tell() returns trigger language plpgsql as $$ begin
			perform pg_temp.fail(new.a, new.size); return new; end $$`)
		table := uniqueName("long")
		mustExec(t, s, "create temp table "+table+" (a int, size int)")
		mustExec(t, s, "create trigger tell before insert on "+table+" for each row execute function pg_temp.tell()")
		st, err := s.PrepareContext(ctx, "select pg_temp.fail($1, $2)")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		for _, size := range []int{40_000, 1_000_000} {
			for name, f := range map[string]func() error{
				"exec": func() error {
					_, err := s.ExecContext(ctx, fmt.Sprint("select pg_temp.fail(100, ", size, ")"))
					return err
				},
				"args":     func() error { _, err := s.ExecContext(ctx, "select pg_temp.fail(100, $1)", size); return err },
				"prepared": func() error { _, err := st.ExecContext(ctx, 100, size); return err },
				"rows": func() error {
					rows, err := s.QueryContext(ctx, fmt.Sprint("select pg_temp.fail(i, ", size, ") from generate_series(1, 200) i"))
					if err != nil {
						return err
					}
					defer rows.Close()
					n := 0
					for rows.Next() {
						n++
					}
					if n != 99 {
						t.Errorf("%d rows", n)
					}
					return rows.Err()
				},
				"COPY": func() error {
					tx, err := s.BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer tx.Rollback()
					in, err := tx.PrepareContext(ctx, "copy "+table+" from stdin")
					if err != nil {
						return err
					}
					defer in.Close()
					if _, err := in.ExecContext(ctx, 100, size); err != nil {
						return err
					}
					_, err = in.ExecContext(ctx)
					return err
				},
			} {
				e := serverError(t, f())
				if e.Code != "P0001" || e.Severity != "ERROR" || !strings.HasPrefix(e.Message, "Müüü") || !strings.HasPrefix(e.Detail, "Dddd") || e.Hint != "the end" {
					t.Errorf("%s of %d bytes: %s %s %.20q %.20q %q", name, size, e.Code, e.Severity, e.Message, e.Detail, e.Hint)
				}
				if got := queryValue[uint32](t, s, "select pg_backend_pid()"); got != pid {
					t.Fatalf("%s of %d bytes: another session", name, size)
				}
			}
		}
	})
}

// lib/pq with binary_parameters takes the session for busy ever after.
func TestTooManyArguments(t *testing.T) {
	t.Parallel()
	for _, binary := range []string{"no", "yes"} {
		s := take(t, open(t, dsn(t)+" binary_parameters="+binary))
		args := make([]any, 65536)
		if _, err := s.ExecContext(testContext(t), "select 1", args...); err == nil {
			t.Errorf("%s: exec: no error", binary)
		}
		if _, err := s.QueryContext(testContext(t), "select 1", args...); err == nil {
			t.Errorf("%s: query: no error", binary)
		}
		mustExec(t, s, "select 1")
	}
}

// O7: a query that would end early on the wire is refused before anything is sent, so a
// transaction is not spoiled either. A payload could never be sent.
func TestNULInAQuery(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, tx := testContext(t), mustBegin(t, s)
		exec := func(_ sql.Result, err error) error { return err }
		for _, query := range []string{"select 1\x00; drop table x", "\x00", "select $1::int\x00", "copy x from stdin\x00", "listen a\x00b"} {
			for name, err := range map[string]error{
				"exec":                exec(tx.ExecContext(ctx, query)),
				"exec with argument":  exec(tx.ExecContext(ctx, query, 1)),
				"query":               tx.QueryRowContext(ctx, query).Err(),
				"query with argument": tx.QueryRowContext(ctx, query, 1).Err(),
				"prepare":             func() error { _, err := tx.PrepareContext(ctx, query); return err }(),
			} {
				if err == nil || !strings.HasPrefix(err.Error(), "pgnotify: the query has a NUL byte at position ") {
					t.Errorf("%q, %s: %v", query, name, err)
				}
			}
		}
		if err := pgnotify.Notify(ctx, tx, "jobs", "a\x00b"); err == nil || !strings.Contains(err.Error(), `notify "jobs": the payload has a NUL byte`) {
			t.Error(err)
		}
		mustExec(t, tx, "select 1")
	})
}
