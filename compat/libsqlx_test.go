package compat

import (
	"context"
	"database/sql"
	"reflect"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

type sqlxPart struct {
	ID    int             `db:"id"`
	Name  string          `db:"name"`
	Price sql.NullFloat64 `db:"price"`
	Tags  pq.StringArray  `db:"tags"`
	Image []byte          `db:"image"`
	Made  time.Time       `db:"made"`
}

const sqlxTable = `create table sqlx_parts (
	id int primary key, name text not null, price float8, tags text[] not null,
	image bytea, made timestamptz not null)`

const sqlxInsert = `insert into sqlx_parts (id, name, price, tags, image, made)
	values (:id, :name, :price, :tags, :image, :made)`

var sqlxParts = []sqlxPart{
	{1, "nut", sql.NullFloat64{Float64: 0.5, Valid: true}, pq.StringArray{"steel", `a "b", c\d`},
		[]byte{0, 1, 0xff}, time.Date(2024, 2, 29, 12, 0, 0, 123456000, time.UTC)},
	{2, "bolt", sql.NullFloat64{}, pq.StringArray{}, nil, time.Unix(0, 0).UTC()},
	{3, "wäsche", sql.NullFloat64{}, pq.StringArray{"steel"}, []byte{}, time.Unix(1, 0).UTC()},
}

// testSqlx has sqlx think that it is lib/pq: from the name it knows to write $1.
func testSqlx(t *testing.T, db *sql.DB) {
	ctx := deadline(t)
	x := sqlx.NewDb(db, "postgres")
	_, err := x.ExecContext(ctx, sqlxTable)
	check(t, "create table", err)
	result, err := x.NamedExecContext(ctx, sqlxInsert, sqlxParts)
	check(t, "named exec", err)
	if n, err := result.RowsAffected(); n != 3 || err != nil {
		t.Errorf("named exec of 3: %d rows, %v", n, err)
	}
	_, err = x.NamedExecContext(ctx, sqlxInsert, sqlxParts[0])
	checkUnique(t, err, "sqlx_parts_pkey")
	checkSqlxSelect(ctx, t, x)
	checkSqlxArrays(ctx, t, x)
	checkSqlxTx(ctx, t, x)
}

// checkSqlxSelect reads the rows back, by each of the ways that sqlx has.
func checkSqlxSelect(ctx context.Context, t *testing.T, x *sqlx.DB) {
	t.Helper()
	var parts []sqlxPart
	check(t, "select", x.SelectContext(ctx, &parts, "select * from sqlx_parts order by id"))
	for i := range parts {
		parts[i].Made = parts[i].Made.UTC()
	}
	if !reflect.DeepEqual(parts, sqlxParts) {
		t.Errorf("select: %+v\nwant %+v", parts, sqlxParts)
	}
	query, args, err := sqlx.In("select name from sqlx_parts where id in (?) order by id", []int{2, 3})
	check(t, "In", err)
	var names []string
	check(t, "select in", x.SelectContext(ctx, &names, x.Rebind(query), args...))
	if want := []string{"bolt", "wäsche"}; !reflect.DeepEqual(names, want) {
		t.Errorf("select in: %q, want %q", names, want)
	}
	named, err := x.PrepareNamedContext(ctx, "select * from sqlx_parts where name = :name")
	check(t, "prepare", err)
	defer named.Close()
	for _, want := range sqlxParts {
		var part sqlxPart
		check(t, "prepared get", named.GetContext(ctx, &part, want))
		if part.ID != want.ID {
			t.Errorf("prepared get of %q: id %d, want %d", want.Name, part.ID, want.ID)
		}
	}
	row := make(map[string]any)
	check(t, "map scan", x.QueryRowxContext(ctx,
		"select id, price from sqlx_parts where id = $1", 1).MapScan(row))
	if want := map[string]any{"id": int64(1), "price": 0.5}; !reflect.DeepEqual(row, want) {
		t.Errorf("map scan: %v, want %v", row, want)
	}
}

// checkSqlxArrays has arrays as arguments and as results.
func checkSqlxArrays(ctx context.Context, t *testing.T, x *sqlx.DB) {
	t.Helper()
	var tags []string
	check(t, "get", x.GetContext(ctx, pq.Array(&tags), "select tags from sqlx_parts where id = $1", 1))
	if want := []string(sqlxParts[0].Tags); !reflect.DeepEqual(tags, want) {
		t.Errorf("get of an array: %q, want %q", tags, want)
	}
	var ids []int64
	check(t, "get", x.GetContext(ctx, pq.Array(&ids),
		"select array_agg(id order by id) from sqlx_parts where tags && $1", pq.Array([]string{"steel", "iron"})))
	if want := []int64{1, 3}; !reflect.DeepEqual(ids, want) {
		t.Errorf("array as argument and result: %v, want %v", ids, want)
	}
	ids = nil
	check(t, "select", x.SelectContext(ctx, &ids,
		"select id from sqlx_parts where id = any($1) order by id", []int{2, 3}))
	if want := []int64{2, 3}; !reflect.DeepEqual(ids, want) {
		t.Errorf("a slice as argument: %v, want %v", ids, want)
	}
}

// checkSqlxTx has a statement of the pool in a transaction, and pgnotify's own
// functions take a *sqlx.Tx: what was rolled back is not there, and not heard.
func checkSqlxTx(ctx context.Context, t *testing.T, x *sqlx.DB) {
	t.Helper()
	conn, err := x.Connx(ctx)
	check(t, "conn", err)
	defer conn.Close()
	pc, err := pgnotify.FromConn(conn.Conn)
	check(t, "FromConn", err)
	check(t, "listen", pc.Listen(ctx, "sqlx"))
	rename, err := x.PreparexContext(ctx, "update sqlx_parts set name = $1 where id = 1")
	check(t, "prepare", err)
	defer rename.Close()
	for _, name := range []string{"undone", "done"} {
		tx, err := x.BeginTxx(ctx, nil)
		check(t, "begin", err)
		defer tx.Rollback()
		_, err = tx.StmtxContext(ctx, rename).ExecContext(ctx, name)
		check(t, "update", err)
		check(t, "notify", pgnotify.Notify(ctx, tx, "sqlx", name))
		if name == "done" {
			check(t, "commit", tx.Commit())
			break
		}
		check(t, "rollback", tx.Rollback())
	}
	var name string
	check(t, "get", x.GetContext(ctx, &name, "select name from sqlx_parts where id = 1"))
	n, err := pc.WaitForNotification(ctx)
	check(t, "wait", err)
	if name != "done" || n.Payload != "done" {
		t.Errorf("after the transactions the name is %q, and %q was heard", name, n.Payload)
	}
}
