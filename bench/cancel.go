package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// What a cancel scenario records of each cancelled statement.
const (
	answerMillis = "answer" // from cancel to the answer of the next statement
	returnMillis = "return" // from cancel to the return of the cancelled call
	sameBackend  = "same"   // 1: the next statement ran in the same server process
)

// cancelLabel is the label of how long it takes until the session is back.
const cancelLabel = "cancel to the next answer, ms"

// sessionKept is the label of how often a cancelled statement did not cost its
// session.
const sessionKept = "session kept, % of statements"

func cancelScenarios() []scenario {
	s := scenario{
		name:  "cancel",
		about: "a running statement is cancelled, and a pool of one session runs the next",
		unit:  "statements",
		count: 20,
		quick: 5,
		metrics: []metric{
			{label: cancelLabel, quantity: answerMillis, summary: medianOf},
			{label: "the same, 95th percentile", quantity: answerMillis, summary: p95Of},
			{label: "cancel to the call's return, ms", quantity: returnMillis, summary: medianOf},
			{label: "the same, 95th percentile", quantity: returnMillis, summary: p95Of},
			{label: sessionKept, quantity: sameBackend, summary: percentOf},
		},
	}
	for _, d := range sqlDrivers {
		s.contenders = append(s.contenders, contender{name: d.name, start: d.startCanceller})
	}
	return []scenario{s}
}

// startCanceller opens the pool, and a session to look at it with: lib/pq's for
// all contenders.
func (d sqlDriver) startCanceller(ctx context.Context, dsn string) (*worker, error) {
	db, err := d.open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	eye, err := sqlDriver{registered: "postgres"}.open(ctx, dsn)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	c := &canceller{db: db, eye: eye}
	return &worker{
		work: func(ctx context.Context, count int, r record) error {
			for range count {
				if err := c.once(ctx, r); err != nil {
					return err
				}
			}
			return nil
		},
		close: func() error { return errors.Join(db.Close(), eye.Close()) },
	}, nil
}

type canceller struct {
	db  *sql.DB // a pool of one
	eye *sql.DB // sees what the server does
}

// A returned is the end of a call: its error, and when.
type returned struct {
	err error
	at  time.Time
}

// once cancels a statement that the server runs, and has the pool run the next.
func (c *canceller) once(ctx context.Context, r record) error {
	before, err := backend(ctx, c.db)
	if err != nil {
		return err
	}
	sleep, cancel := context.WithCancel(ctx)
	defer cancel()
	call := make(chan returned, 1)
	go func() { // ended by cancel
		_, err := c.db.ExecContext(sleep, "select pg_sleep(60)")
		call <- returned{err, time.Now()}
	}()
	if err := c.untilAsleep(ctx, before, call); err != nil {
		return err
	}

	start := time.Now()
	cancel()
	after, err := backend(ctx, c.db)
	answered := time.Now()
	if err != nil {
		return fmt.Errorf("the statement after the cancelled one: %w", err)
	}

	end := <-call
	if end.err == nil {
		return errors.New("the cancelled statement came back without an error")
	}
	r.add(answerMillis, millis(answered.Sub(start)))
	r.add(returnMillis, millis(end.at.Sub(start)))
	r.add(sameBackend, 0)
	if after == before {
		r[sameBackend][len(r[sameBackend])-1] = 1
	}
	return nil
}

func backend(ctx context.Context, db *sql.DB) (pid int, err error) {
	err = db.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&pid)
	return pid, err
}

// untilAsleep returns when the server process sleeps, or the call has ended.
func (c *canceller) untilAsleep(ctx context.Context, pid int, call <-chan returned) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	for {
		var asleep bool
		err := c.eye.QueryRowContext(ctx,
			"select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = $1", pid).Scan(&asleep)
		if err != nil || asleep {
			return err
		}
		select {
		case end := <-call:
			return fmt.Errorf("the statement ended before it was cancelled: %w", end.err)
		default:
		}
	}
}
