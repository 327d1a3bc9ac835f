package main

import (
	"context"
	"database/sql"
	"time"
)

const channel = "pgnotify_queue"

// schema makes each statement that inserts jobs send a notification. It says only that
// it is worth looking, so a transaction with many such statements sends one.
const schema = `
CREATE TABLE pgnotify_queue (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	done timestamptz,
	worker int);
CREATE INDEX pgnotify_queue_waiting ON pgnotify_queue (id) WHERE done IS NULL;
CREATE FUNCTION pgnotify_queue_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_notify('` + channel + `', '');
	RETURN NULL;
END $$;
CREATE TRIGGER inserted AFTER INSERT ON pgnotify_queue
	FOR EACH STATEMENT EXECUTE FUNCTION pgnotify_queue_inserted();
CREATE TABLE pgnotify_queue_effects (job bigint NOT NULL)`

// jobs holds the table of jobs, and the table on which they have an effect.
type jobs struct{ db *sql.DB }

func (j jobs) create(ctx context.Context) error {
	_, err := j.db.ExecContext(ctx, schema)
	return err
}

// insert inserts n jobs, each in a transaction of its own.
func (j jobs) insert(ctx context.Context, n int) error {
	for range n {
		if _, err := j.db.ExecContext(ctx, "INSERT INTO pgnotify_queue DEFAULT VALUES"); err != nil {
			return err
		}
	}
	return nil
}

// waiting returns how many jobs are not done.
func (j jobs) waiting(ctx context.Context) (n int, err error) {
	err = j.db.QueryRowContext(ctx, "SELECT count(*) FROM pgnotify_queue WHERE done IS NULL").Scan(&n)
	return n, err
}

// A ledger says what has become of all jobs.
type ledger struct{ jobs, done, effects, twice int }

func (j jobs) ledger(ctx context.Context) (l ledger, err error) {
	err = j.db.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM pgnotify_queue),
		(SELECT count(*) FROM pgnotify_queue WHERE done IS NOT NULL),
		(SELECT count(*) FROM pgnotify_queue_effects),
		(SELECT count(*) - count(DISTINCT job) FROM pgnotify_queue_effects)`).
		Scan(&l.jobs, &l.done, &l.effects, &l.twice)
	return l, err
}

// Close removes the tables, even after Ctrl-C.
func (j jobs) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := j.db.ExecContext(ctx, `DROP TABLE pgnotify_queue, pgnotify_queue_effects;
		DROP FUNCTION pgnotify_queue_inserted()`)
	return err
}
