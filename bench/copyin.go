package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// pgxCopyName is pgx without database/sql, which has no COPY.
const pgxCopyName = "pgx CopyFrom"

// The table that is copied into. It is the session's own, and empty again after
// each transaction.
const (
	createCopyTable = `create temporary table bench_copy (id bigint, name text, at timestamptz)
		on commit delete rows`
	copyInto = "copy bench_copy (id, name, at) from stdin"
)

// copyRow is a row that is copied, but for its id.
var copyRow = struct {
	name string
	at   time.Time
}{"a short text", time.Date(2020, 2, 2, 2, 2, 2, 20_000_000, time.UTC)}

// copyScenario is COPY FROM STDIN, in a transaction of its own.
func copyScenario() scenario {
	s := scenario{
		name:    "copy",
		about:   "COPY FROM STDIN into a temporary table: a number, a short text and a time",
		unit:    "rows",
		count:   100_000,
		quick:   10_000,
		rounds:  15,
		metrics: costMetrics("µs", medianOf),
	}
	for _, d := range sqlDrivers[:2] { // pgnotify and lib/pq
		s.contenders = append(s.contenders, contender{name: d.name, start: d.startCopying})
	}
	s.contenders = append(s.contenders, contender{name: pgxCopyName, start: startPgxCopying})
	return s
}

func (d sqlDriver) startCopying(ctx context.Context, dsn string) (*worker, error) {
	db, err := d.open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, createCopyTable); err != nil {
		return nil, joinClose(err, db.Close)
	}
	return &worker{
		work:  func(ctx context.Context, count int, _ record) error { return copyIn(ctx, db, count) },
		close: db.Close,
	}, nil
}

// copyIn copies as lib/pq's users do: by a prepared statement, of which each
// execution is a row, and the last one, without arguments, the end.
func copyIn(ctx context.Context, db *sql.DB, count int) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	stmt, err := tx.PrepareContext(ctx, copyInto)
	if err != nil {
		return err
	}
	for i := range count {
		if _, err := stmt.ExecContext(ctx, i, copyRow.name, copyRow.at); err != nil {
			return err
		}
	}
	result, err := stmt.ExecContext(ctx)
	if err != nil {
		return err
	}
	if err := stmt.Close(); err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != int64(count) {
		return errors.Join(err, fmt.Errorf("%d rows were copied, and not %d", n, count))
	}
	return tx.Commit()
}

func startPgxCopying(ctx context.Context, dsn string) (*worker, error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	close := func() error { return closePgx(c) }
	if _, err := c.Exec(ctx, createCopyTable); err != nil {
		return nil, joinClose(err, close)
	}
	return &worker{
		work: func(ctx context.Context, count int, _ record) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			return pgxCopyIn(ctx, c, count)
		},
		close: close,
	}, nil
}

func pgxCopyIn(ctx context.Context, c *pgx.Conn, count int) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		row := pgx.CopyFromSlice(count, func(i int) ([]any, error) {
			return []any{int64(i), copyRow.name, copyRow.at}, nil
		})
		n, err := tx.CopyFrom(ctx, pgx.Identifier{"bench_copy"}, []string{"id", "name", "at"}, row)
		if err == nil && n != int64(count) {
			err = fmt.Errorf("%d rows were copied, and not %d", n, count)
		}
		return err
	})
}
