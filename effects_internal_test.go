package pgnotify

import (
	"database/sql/driver"
	"strings"
	"testing"
)

// What a query is taken for: f(orgets), t(ells), c(ommits), n(ow) and the number of the
// argument for set_config.
func TestEffects(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"": "", ";;": "", " -- a": "", "select 1": "", "(select 1)": "", "((values (1)))": "",
		"SELECT 1; Insert into a values ($1);": "", "truncate a": "", "lock a": "", "fetch a": "",
		"CREATE table a()": "ft", "created": "ft", "do $$ $$": "ft", "call a()": "ft", "grant a to b": "ft",
		"revoke a from b": "ft", "import foreign schema a": "ft", "analyze": "ft", "vacuum": "ft",
		"explain select 1": "ft", "comment on table a is 'b'": "ft", "$1": "ft", "'a'": "ft", `"select" 1`: "ft",
		" \n/* a */ -- b\n drop table a": "ft", "select 1; alter table a drop b": "ft",
		"/* a /* b */ c */ drop table a": "ft", "/*/ x */ drop table a": "ft", "\fdrop table a": "ft", "-- a\rdrop table a": "ft",
		"select ';' ; select 'drop'": "", "insert into drops values ('create')": "",
		"create temp table a()": "f", "create local temporary table a()": "f", "create global temp view a as select 1": "f",
		"create or replace temp view a as select 1": "ft", "create temp table a(); create table b()": "ft",
		"discard temp": "f", "deallocate a": "f", "prepare a as select 1": "f", "execute a": "f", "load 'a'": "f",
		"prepare transaction 'a'": "f",

		"begin": "", "commit": "c", "end": "c", "COMMIT and chain": "c", "rollback": "", "rollback to a": "", "abort": "",
		"commit prepared 'a'": "ftc", "rollback /* a */ prepared 'a'": "ft",

		"select 1 into a": "ft", "select 1 into temp a": "ft", "with a as (select 1) select * into b from a": "ft",
		"(select 1 into a)": "ft", "select 1 as insert into a": "ft", "select 1 insert into a": "ft",
		"select (1) merge into a": "ft", `select 1 "insert" into a`: "ft", "with a as (select 1) select (1) insert into b": "ft",
		"with a as (select 1) (select (1) insert into b)": "ft", "table a union select 1 into b": "ft", "select 1 from into": "ft",
		"insert into a select 1": "", "merge into a using b on c when matched then do nothing": "",
		"with a as (insert into b values (1) returning *), c as (select 1) insert into d select * from a": "",
		"with a as (merge /* x */ into b using c on d when matched then delete) select 1":                 "",
		"select 'into'": "", "select intos": "",

		"set role a": "f", "Set Local Search_Path To a": "f", `set "search_path" = a`: "f", `set U&"search\005fpath" = a`: "ft",
		"set session authorization default": "f", "set schema 'a'": "f", "begin; set local search_path = a": "f",
		"set time zone 0": "f", "set names 'a'": "f", "set xml option document": "f", "set bytea_output = 'hex'": "f",
		"set extra_float_digits = 1": "f", "set enable_seqscan = off": "f", "set": "f", "set local": "f", "set transactions = 1": "f",
		"reset all": "f", "reset/**/all": "f", "reset Role": "f", "reset session authorization": "f",
		"reset statement_timeout": "", "Set Statement_Timeout = 1; select role": "", `set local "lock_timeout" to default`: "",
		"set constraints all deferred": "", "set transaction read only": "", "set session characteristics as transaction read only": "",
		"set app.role = 'a'": "", "set local app.search_path to 'a'": "", `set "app.role" = 'a'`: "",
		"set statement_timeout = 1; set role a": "f", "set idle_in_transaction_session_timeout = 1": "",
		"set an_extremely_long_name_that_no_setting_of_the_server_has = 1": "f",

		"select set_config('search_path', $1, $2)": "f", "SELECT Pg_Catalog.Set_Config('role', $1, $2)": "f",
		`select "set_config"('role', $1, $2)`: "f", "select set_config('app.role', $1, $2)": "", "select set_config/**/('Work_mem', '1', true)": "",
		"select set_config($1, $2, $3)": "1", "select set_config($2, $1, $3), set_config($2, 'a', true)": "2",
		"select set_config($1, $2, $3), set_config($2, $1, $3)": "f1", "select set_config($1 || 'a', $2, $3)": "f",
		"select set_config($1::text, $2, $3)": "f", "select set_config('a.b' || $1, $2, $3)": "f", "select set_config($99999, $2, $3)": "f",
		"select set_config(name, a, b) from c": "f", "select set_config(E'a\\x2eb', $1, true)": "fn", "select set_config": "f", "select set_config(": "f",
		"select set_config; drop table a": "ft", "select 'set_config(role)'": "", "update a set role = $1": "",
		"update pg_settings set setting = $1": "f", `select * from "pg_settings"`: "f", "select PG_catalog.PG_Settings": "f",

		"select now(), $1": "", "select 'a' < 'b', now (), $1": "", "select 'a' from today where b = $1": "", "select now": "",
		"-- don't\n select 'Now', $1": "n", "select /* ' */ date'today', $1": "n", "select $$today$$::date, $1": "n", "select $x$now$x$": "n",
		`select e'\'', 'yesterday', $1`: "n", "select $1 as \"it's\", 'now'": "n", "select 'now()'": "n", "select 'now ( )'": "n", "select 'now_'": "n",
		"select date ' Today ', $1": "n", "select '04:05 tomorrow'::timestamp": "n", "select 'today04:05'": "n", "select '{1,NOW}'": "n", "select 'énow'": "n",
		"select 'it''s yesterday'": "n", `select E'\x6eow'`: "n", `select U&'n\006Fw'`: "n", "select U&'n!006Fw' uescape '!'": "n", "select 'n'\n'ow'": "ft",
		"select 'known', 'nowhere', 'snow', 'noww', 'todays'": "", "select 'no w'": "",

		"select 'a": "ft", "select /* 1": "ft", "select $$": "ft", `select U&"a"`: "ft", `select 'a\b'`: "", `select '\''`: "ft",
		"\x00;\xff;": "ft",
	} {
		if got := readEffects(query, true).String(); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	if got := readEffects(`select 'a\b'`, false).String(); got != "ft" {
		t.Errorf("a backslash that may escape: %q", got)
	}
}

// String returns the effects as TestEffects writes them.
func (e effects) String() string {
	var s strings.Builder
	for i, is := range []bool{e.forgets, e.tells, e.commits, e.clock} {
		if is {
			s.WriteByte("ftcn"[i])
		}
	}
	if e.setting != 0 {
		s.WriteByte('0' + byte(e.setting))
	}
	return s.String()
}

// An argument that names a setting.
func TestArgumentThatNamesASetting(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name any
		want bool
	}{
		{"search_path", false}, {"ROLE", false}, {[]byte("search_path"), false}, {int64(1), false}, {nil, false}, {"", false},
		{"app.role", true}, {"Work_Mem", true}, {[]byte("lock_timeout"), true},
	} {
		args := namedValues([]driver.Value{"search_path", test.name})
		if got := namesHarmless(args, 2); got != test.want {
			t.Errorf("%v: %v", test.name, got)
		}
	}
	if namesHarmless(nil, 1) {
		t.Error("no argument")
	}
}

// BenchmarkEffects is the cost of reading a query that is not kept; a kept one is not read.
func BenchmarkEffects(b *testing.B) {
	for name, query := range map[string]string{
		"50 bytes":      "select id, name, mail from users where id = 1 or 2",
		"ten arguments": selectTen,
		"16 KiB":        "select '" + strings.Repeat("it''s a literal of some length, ", 512) + "'",
		"300 columns":   "select " + strings.Repeat("a_column, ", 300) + "$1",
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(query)))
			b.ReportAllocs()
			for b.Loop() {
				readEffects(query, true)
			}
		})
	}
}

// selectTen is the query of the benchmark "ten arguments".
const selectTen = `select ($1::int + $2::int = 3 and $3::bigint > 4 and $4::text || $5::text = 'ab'
		and $6::bool and $7::float8 < 8 and $8::timestamptz < now() and length($9::bytea) = 2
		and $10::text is null)::int`

func TestSelectTenIsKept(t *testing.T) {
	t.Parallel()
	if got := readEffects(selectTen, true); got != (effects{}) {
		t.Errorf("%v", got)
	}
}
