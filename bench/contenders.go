package main

import (
	"context"
	"database/sql"
	"errors"

	_ "github.com/jackc/pgx/v5/stdlib" // "pgx"
	_ "github.com/lib/pq"              // "postgres"

	_ "github.com/pgnotify/pgnotify" // "pgnotify"
)

// The contenders' names in tables.
const (
	pgnotifyName = "pgnotify"
	libpqName    = "lib/pq"
	pgxName      = "pgx/stdlib"
	noneName     = "no driver"
)

// A sqlDriver is a driver for database/sql under its table's name. Each has its
// defaults; pgx/stdlib's is to prepare and cache every statement.
type sqlDriver struct{ name, registered string }

var (
	sqlDrivers = []sqlDriver{{pgnotifyName, "pgnotify"}, {libpqName, "postgres"}, {pgxName, "pgx"}}
	noDriver   = sqlDriver{noneName, "none"}
)

// open returns a pool of one session, connected.
func (d sqlDriver) open(ctx context.Context, dsn string) (*sql.DB, error) {
	db, err := sql.Open(d.registered, dsn)
	if err != nil {
		return nil, err
	}
	if err := poolOfOne(ctx, db); err != nil {
		return nil, err
	}
	return db, nil
}

// poolOfOne limits a pool to one session and connects that. Where it fails, it
// closes the pool.
func poolOfOne(ctx context.Context, db *sql.DB) error {
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	if err := db.PingContext(ctx); err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}
