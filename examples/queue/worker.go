package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/pgnotify/pgnotify"
)

// maxWait is how long a worker sleeps at most. Nothing here needs a limit; if jobs had
// a start time, it would be the time until the next one.
const maxWait = time.Minute

// jobTime bounds a job, which continues after the worker has been told to stop.
const jobTime = 30 * time.Second

// A worker does jobs, one after the other.
type worker struct {
	name int
	db   *sql.DB
	do   func(ctx context.Context, tx *sql.Tx, job int64) error // the work
	done func(job int64)                                        // told of each that is done
	woke func()                                                 // told of each wake-up
}

// run does jobs until ctx ends, and finishes the job in progress. It subscribes before
// it looks for jobs for the first time, so no job goes both unseen and unannounced.
func (w *worker) run(ctx context.Context, l *pgnotify.Listener) error {
	sub, err := l.Subscribe(ctx, channel)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		if err := w.doAll(ctx); err != nil {
			return err
		}
		if err := sub.Wake(ctx, maxWait); err != nil {
			return err
		}
		w.woke()
	}
}

// doAll does jobs until there are none, or until ctx ends.
func (w *worker) doAll(ctx context.Context) error {
	for ctx.Err() == nil {
		job, err := w.doOne(context.WithoutCancel(ctx))
		if err != nil || job == 0 {
			return err
		}
		w.done(job)
	}
	return ctx.Err()
}

// doOne does the oldest job that no other worker is doing, and returns its id, or 0 if
// there is none. The job and its completion are one transaction: whatever happens, both
// are committed or neither.
func (w *worker) doOne(ctx context.Context) (job int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, jobTime)
	defer cancel()
	err = pgnotify.InTx(ctx, w.db, nil, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT id FROM pgnotify_queue WHERE done IS NULL
			ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED`).Scan(&job)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.do(ctx, tx, job); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE pgnotify_queue SET done = now(), worker = $2 WHERE id = $1", job, w.name)
		return err
	})
	return job, err
}
