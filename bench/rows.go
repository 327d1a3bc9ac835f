package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// rowsScenarios are results of many rows, or of large ones, read to the end. None
// of them has arguments, so that nobody has to prepare anything.
func rowsScenarios() []scenario {
	return []scenario{
		rowsScenario("rows/narrow", "300,000 rows of a number and a short text", "rows", 300_000, 100_000, readNarrow),
		rowsScenario("rows/wide", "rows of 20 columns: numbers, texts, times and truths", "rows", 20_000, 10_000, readWide),
		rowsScenario("rows/large", "rows of one text of 1 MB", "rows", 100, 40, readLarge),
	}
}

// A reader reads so many rows to the end.
type reader func(ctx context.Context, db *sql.DB, count int) error

func rowsScenario(name, about, unit string, count, quick int, read reader) scenario {
	s := scenario{
		name:    name,
		about:   about,
		unit:    unit,
		count:   count,
		quick:   quick,
		rounds:  15,
		metrics: costMetrics("µs", medianOf),
	}
	for _, d := range sqlDrivers {
		s.contenders = append(s.contenders, contender{name: d.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			db, err := d.open(ctx, dsn)
			if err != nil {
				return nil, err
			}
			return &worker{
				work: func(ctx context.Context, count int, _ record) error {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					return read(ctx, db, count)
				},
				close: db.Close,
			}, nil
		}})
	}
	return s
}

// readAll has each row of a query, of which there must be so many, scanned into
// dest, and looked at by check.
func readAll(ctx context.Context, db *sql.DB, query string, count int, check func() bool, dest ...any) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	read := 0
	for ; rows.Next(); read++ {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if !check() {
			return fmt.Errorf("row %d is not what was asked for", read)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if read != count {
		return fmt.Errorf("%d rows, and not %d", read, count)
	}
	return nil
}

func readNarrow(ctx context.Context, db *sql.DB, count int) error {
	var id int64
	var name string
	query := fmt.Sprintf("select i, 'a short text' from generate_series(1, %d) i", count)
	return readAll(ctx, db, query, count, func() bool { return id > 0 && len(name) == 12 }, &id, &name)
}

// wideGroups is how many groups of four columns a wide row has.
const wideGroups = 5

func readWide(ctx context.Context, db *sql.DB, count int) error {
	type group struct {
		number int64
		text   string
		at     time.Time
		truth  bool
	}
	var groups [wideGroups]group
	var dest []any
	for i := range groups {
		g := &groups[i]
		dest = append(dest, &g.number, &g.text, &g.at, &g.truth)
	}
	columns := "i, 'a short text', timestamptz '2020-02-02 02:02:02.02Z', i > 0"
	query := fmt.Sprintf("select %s from generate_series(1, %d) i",
		strings.Join(slices.Repeat([]string{columns}, wideGroups), ", "), count)
	last := &groups[wideGroups-1]
	return readAll(ctx, db, query, count, func() bool { return last.truth && last.at.Year() == 2020 }, dest...)
}

func readLarge(ctx context.Context, db *sql.DB, count int) error {
	const size = 1_000_000
	var text string
	query := fmt.Sprintf("select repeat('x', %d) from generate_series(1, %d)", size, count)
	return readAll(ctx, db, query, count, func() bool { return len(text) == size }, &text)
}
