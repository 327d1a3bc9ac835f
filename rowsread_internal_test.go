package pgnotify

import "testing"

// What is taken for read-only may be cancelled when its rows are closed, so in
// doubt nothing is.
func TestIsReadOnly(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"select 1":                      true,
		"SELECT 1":                      true,
		"sElEcT\t1":                     true,
		" \r\n\t select 1 ; \n ;; ":     true,
		"select(1)":                     true,
		"select/* c */1":                true,
		"select--c\n1":                  true,
		"select*from t":                 true,
		"select'x'":                     true,
		"select\"a\"from t":             true,
		"select $1":                     true,
		"select E'\\'' from t":          true,
		"select 'ſ', 'é', '日本'":         true,
		"table t":                       true,
		"select 1 -- ;":                 true,
		"select 1 --;\ninsert into t":   false,
		"values (1)":                    true,
		"values(1)":                     true,
		"select * from t for update":    true,
		"select pg_notify('a', 'b')":    true, // as documented: it may write
		"":                              false,
		" ":                             false,
		";":                             false,
		";;":                            false,
		"select":                        false,
		"select;":                       false,
		"s":                             false,
		"(select 1)":                    false,
		"-- c\nselect 1":                false,
		"/* c */ select 1":              false,
		"/* select */ delete from t":    false,
		"--select\ndelete from t":       false,
		"select 1; insert into t":       false,
		"select 1;insert into t":        false,
		"select ';'":                    false,
		"select $$;$$":                  false,
		"; select 1":                    false,
		"; insert into t values (1)":    false,
		"insert into t select 1":        false,
		"insert into t values (1)":      false,
		"update t set a = 1":            false,
		"delete from t":                 false,
		"merge into t":                  false,
		"with x as (select 1) select 1": false,
		"with x as (insert into t values (1) returning *) select * from x": false,
		"explain analyze insert into t":                                    false,
		"execute s":                                                        false,
		"fetch all from c":                                                 false,
		"call p()":                                                         false,
		"copy t to stdout":                                                 false,
		"do $$ select 1 $$":                                                false,
		"declare c cursor for select 1":                                    false,
		"create table t as select 1":                                       false,
		"selects 1":                                                        false,
		"selectinsert":                                                     false,
		"éselect 1":                                                        false,
		"selecté 1":                                                        false,
		"\x00select 1":                                                     false,
		"\xffselect 1":                                                     false,
		"\ufeffselect 1":                                                   false,
		"ＳＥＬＥＣＴ 1":                                                         false,
	} {
		if got := isReadOnly(query); got != want {
			t.Errorf("%q: %v", query, got)
		}
	}
}
