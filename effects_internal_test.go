package pgnotify

import (
	"database/sql/driver"
	"testing"
)

// What a query is taken for, by its words.
func TestChangesMeaning(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"":                                         false,
		"select 1":                                 false,
		"CREATE":                                   true,
		"created":                                  false,
		" \n/* a */ -- b\n drop table a":           true,
		"select 1; alter table a drop b":           true,
		"do $$ begin null; end $$":                 true,
		"insert into drops values ('create')":      false,
		"set role a":                               true,
		"Set Local Search_Path To a":               true,
		`set "search_path" = a`:                    true,
		"set session authorization default":        true,
		"set schema 'a'":                           true,
		"begin; set local search_path = a":         true,
		"reset all":                                true,
		"reset Role":                               true,
		"reset statement_timeout":                  false,
		"set statement_timeout = 1; select role":   false,
		"set constraints all deferred":             false,
		"set app.role = 'a'":                       false,
		"set xml option document":                  true,
		"update a set role = $1":                   false,
		"settle role":                              false,
		"select set_config('search_path', $1, $2)": true,
		"SELECT SET_CONFIG('role', $1, $2)":        true,
		"select set_config('app.role', $1, $2)":    false,
		"select set_config($1, $2, $3)":            false,
		"\x00;\xff;":                               false,
	} {
		if got := changesMeaning(query, nil); got != want {
			t.Errorf("%q: %v", query, got)
		}
	}
	args := func(first any) []driver.NamedValue { return namedValues([]driver.Value{first, "a", true}) }
	for name, want := range map[any]bool{"search_path": true, "ROLE": true, "app.role": false, "work_mem": false, int64(1): false, nil: false} {
		if got := changesMeaning("select set_config($1, $2, $3)", args(name)); got != want {
			t.Errorf("set_config of %v: %v", name, got)
		}
		if changesMeaning("select $1, $2, $3", args(name)) {
			t.Errorf("an argument %v", name)
		}
	}
}

// The literals that stand for the present time.
func TestReadsClock(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"select now(), $1":                       false,
		"select 'a' < 'b', now (), $1":           false,
		"select 'a' from today where b = $1":     false,
		"-- don't\n select 'Now', $1":            true,
		"select /* ' */ date'today', $1":         true,
		"select $$today$$::date, $1":             true,
		`select e'\'', 'yesterday', $1`:          true,
		"select a from today where b = $1":       false,
		"select 'now', $1":                       true,
		"select date ' Today ', $1":              true,
		"select '04:05 tomorrow'::timestamp, $1": true,
		"select 'known', $1":                     false,
		"select $1 || 'it''s yesterday'":         true, // it might be one
	} {
		if got := readsClock(query); got != want {
			t.Errorf("%q: %v", query, got)
		}
	}
}
