package compat

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// gooseMigrations are one with several statements, one with a function, one that
// cannot run in a transaction, and one that fails half-way.
var gooseMigrations = fstest.MapFS{
	"1_table.sql": {Data: []byte(`-- +goose Up
create table goose_birds (id int primary key, name text not null);
insert into goose_birds values (1, 'grey'), (2, 'snow; or not');
-- +goose Down
drop table goose_birds;
`)},
	"2_function.sql": {Data: []byte(`-- +goose Up
-- +goose StatementBegin
create function goose_name(int) returns text language plpgsql as $$
begin
	raise notice 'asked for %', $1;
	return (select name from goose_birds where id = $1);
end
$$;
-- +goose StatementEnd
-- +goose Down
drop function goose_name(int);
`)},
	"3_index.sql": {Data: []byte(`-- +goose NO TRANSACTION
-- +goose Up
create unique index concurrently goose_birds_name on goose_birds (name);
-- +goose Down
drop index concurrently goose_birds_name;
`)},
	"4_broken.sql": {Data: []byte(`-- +goose Up
insert into goose_birds values (3, 'canada');
insert into goose_birds values (4, 'snow; or not');
-- +goose Down
`)},
}

// testGoose goes up and down again, under an advisory lock of one session.
func testGoose(t *testing.T, db *sql.DB) {
	ctx := deadline(t)
	locker, err := lock.NewPostgresSessionLocker()
	check(t, "locker", err)
	p, err := goose.NewProvider(goose.DialectPostgres, db, gooseMigrations,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	check(t, "provider", err) // not closed: that would close the pool
	done, err := p.UpTo(ctx, 3)
	check(t, "up", err)
	if len(done) != 3 {
		t.Errorf("up: %d migrations, want 3", len(done))
	}
	var name string
	check(t, "query", db.QueryRowContext(ctx, "select goose_name(2)").Scan(&name))
	if name != "snow; or not" {
		t.Errorf("what the migrations have made says %q", name)
	}
	checkGooseFailure(ctx, t, db, p)
	done, err = p.DownTo(ctx, 0)
	check(t, "down", err)
	if len(done) != 3 {
		t.Errorf("down: %d migrations, want 3", len(done))
	}
	checkGooseVersion(ctx, t, p, 0)
	var left int
	check(t, "query", db.QueryRowContext(ctx,
		"select count(*) from pg_class where relname like 'goose_birds%'").Scan(&left))
	if left != 0 {
		t.Errorf("down has left %d relations", left)
	}
}

// checkGooseFailure checks that a migration that fails is undone as a whole, and
// that its error is the server's.
func checkGooseFailure(ctx context.Context, t *testing.T, db *sql.DB, p *goose.Provider) {
	t.Helper()
	_, err := p.Up(ctx)
	checkUnique(t, err, "goose_birds_name")
	var partial *goose.PartialError
	if !errors.As(err, &partial) || partial.Failed.Source.Version != 4 {
		t.Errorf("the migration that fails: %v", err)
	}
	if n := count(t, db, "goose_birds"); n != 2 {
		t.Errorf("a migration that fails leaves %d rows, want 2", n)
	}
	checkGooseVersion(ctx, t, p, 3)
}

func checkGooseVersion(ctx context.Context, t *testing.T, p *goose.Provider, want int64) {
	t.Helper()
	version, err := p.GetDBVersion(ctx)
	check(t, "version", err)
	if version != want {
		t.Errorf("version %d, want %d", version, want)
	}
}
