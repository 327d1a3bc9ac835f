package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// An ask runs a query whose answer is the number 1.
type ask func(ctx context.Context) *sql.Row

// driversGoroutines is the label of the goroutines that a driver starts itself.
const driversGoroutines = "of these by the driver"

// queryMetrics are the costs of a query. Its goroutines are shown without the
// one that database/sql starts for rows under a context that can be cancelled.
var queryMetrics = append(costMetrics("µs", medianOf),
	metric{label: "goroutines started", quantity: goroutines, summary: medianOf},
	metric{label: driversGoroutines, quantity: goroutines, summary: medianOf, base: []string{noneName}, relate: difference},
)

// queryScenarios are queries of one row, each under a context of its own that can
// be cancelled and is not.
func queryScenarios() []scenario {
	argument := queryScenario("query/argument", "select $1::int", func(_ context.Context, db *sql.DB) (ask, error) {
		return func(ctx context.Context) *sql.Row { return db.QueryRowContext(ctx, "select $1::int", 1) }, nil
	})
	argument.contenders = append(argument.contenders, contender{name: bareSocketName, start: startBareAsking})
	return []scenario{
		queryScenario("query/simple", "select 1, without arguments", selectOne),
		argument,
		queryScenario("query/ten", "a query with ten arguments of seven types", selectTen),
		queryScenario("query/prepared", "select $1::int, prepared once", func(ctx context.Context, db *sql.DB) (ask, error) {
			stmt, err := db.PrepareContext(ctx, "select $1::int")
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context) *sql.Row { return stmt.QueryRowContext(ctx, 1) }, nil
		}),
		watchedScenario(),
	}
}

func queryScenario(name, about string, prepare func(context.Context, *sql.DB) (ask, error)) scenario {
	s := scenario{
		name:    name,
		about:   about + "; a new context.WithCancel for each",
		unit:    "queries",
		count:   4000,
		quick:   1500,
		metrics: queryMetrics,
	}
	for _, d := range append(sqlDrivers, noDriver) {
		s.contenders = append(s.contenders, contender{name: d.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			db, err := d.open(ctx, dsn)
			if err != nil {
				return nil, err
			}
			return startAsking(ctx, db, prepare)
		}})
	}
	return s
}

// startAsking returns a worker that asks, and closes the pool.
func startAsking(ctx context.Context, db *sql.DB, prepare func(context.Context, *sql.DB) (ask, error)) (*worker, error) {
	ask, err := prepare(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &worker{ask.work, db.Close}, nil
}

func selectOne(_ context.Context, db *sql.DB) (ask, error) {
	return func(ctx context.Context) *sql.Row { return db.QueryRowContext(ctx, "select 1") }, nil
}

// selectTen has ten arguments. The answer is 1 where all have arrived.
func selectTen(_ context.Context, db *sql.DB) (ask, error) {
	const query = `select ($1::int + $2::int = 3 and $3::bigint > 4 and $4::text || $5::text = 'ab'
		and $6::bool and $7::float8 < 8 and $8::timestamptz < now() and length($9::bytea) = 2
		and $10::text is null)::int`
	at := time.Date(2020, 2, 2, 2, 2, 2, 20_000_000, time.UTC)
	args := []any{1, 2, int64(1) << 40, "a", "b", true, 7.5, at, []byte{0, 1}, nil}
	return func(ctx context.Context) *sql.Row { return db.QueryRowContext(ctx, query, args...) }, nil
}

func (a ask) work(ctx context.Context, count int, _ record) error {
	for range count {
		if err := a.once(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a ask) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var one int
	if err := a(ctx).Scan(&one); err != nil {
		return err
	}
	if one != 1 {
		return fmt.Errorf("the answer is %d", one)
	}
	return nil
}
