package compat

import (
	"context"
	"database/sql"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

type riverArgs struct {
	Text string `json:"text"`
}

func (riverArgs) Kind() string { return "note" }

// A riverWorker writes the text down and completes the job in one transaction.
type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	db *sql.DB
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverArgs]) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "insert into river_notes values ($1)", job.Args.Text); err != nil {
		return err
	}
	if _, err := river.JobCompleteTx[*riverdatabasesql.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit()
}

// testRiver works jobs. River's driver for database/sql has no listener, so the
// client polls.
func testRiver(t *testing.T, db *sql.DB) {
	ctx := deadline(t)
	migrateRiver(ctx, t, db)
	_, err := db.ExecContext(ctx, "create table river_notes (text text)")
	check(t, "create table", err)
	client := newRiver(t, db)
	events, stop := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed)
	defer stop()
	insertRiver(ctx, t, db, client, "undone", (*sql.Tx).Rollback)
	job := insertRiver(ctx, t, db, client, "done", (*sql.Tx).Commit)
	check(t, "start", client.Start(ctx))
	select {
	case e := <-events:
		if e.Kind != river.EventKindJobCompleted || e.Job.ID != job.ID {
			t.Errorf("event %v of job %d, %v", e.Kind, e.Job.ID, e.Job.Errors)
		}
	case <-ctx.Done():
		t.Error("no job was completed")
	}
	check(t, "stop", client.Stop(ctx))
	checkRiver(ctx, t, db, client, job)
}

func migrateRiver(ctx context.Context, t *testing.T, db *sql.DB) {
	t.Helper()
	m, err := rivermigrate.New(riverdatabasesql.New(db), &rivermigrate.Config{Logger: riverLog(t)})
	check(t, "migrator", err)
	up, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	check(t, "up", err)
	down, err := m.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
	check(t, "down", err)
	if len(up.Versions) == 0 || len(down.Versions) != len(up.Versions) {
		t.Errorf("up by %d versions, down by %d", len(up.Versions), len(down.Versions))
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	check(t, "up again", err)
	valid, err := m.Validate(ctx, nil)
	check(t, "validate", err)
	if !valid.OK {
		t.Errorf("after the migration: %q", valid.Messages)
	}
}

func newRiver(t *testing.T, db *sql.DB) *river.Client[*sql.Tx] {
	t.Helper()
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{db: db})
	client, err := river.NewClient(riverdatabasesql.New(db), &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}},
		Workers:           workers,
		PollOnly:          true,
		FetchCooldown:     10 * time.Millisecond,
		FetchPollInterval: 10 * time.Millisecond,
		Logger:            riverLog(t),
		TestOnly:          true,
	})
	check(t, "client", err)
	return client
}

// riverLog makes a failure of what River would only log: its maintenance runs
// statements of its own, in the background.
func riverLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(failWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type failWriter struct{ t *testing.T }

func (w failWriter) Write(line []byte) (int, error) {
	w.t.Errorf("River says: %s", line)
	return len(line), nil
}

// insertRiver inserts a job in a transaction that ends in the given way.
func insertRiver(ctx context.Context, t *testing.T, db *sql.DB, client *river.Client[*sql.Tx], text string,
	end func(*sql.Tx) error,
) *rivertype.JobRow {
	t.Helper()
	tx, err := db.BeginTx(ctx, nil)
	check(t, "begin", err)
	defer tx.Rollback()
	inserted, err := client.InsertTx(ctx, tx, riverArgs{text}, &river.InsertOpts{
		Tags: []string{"one", "two"}, Metadata: []byte(`{"from": "test"}`),
	})
	check(t, "insert", err)
	check(t, "end of the transaction", end(tx))
	return inserted.Job
}

// checkRiver checks that the one job that was committed has been worked, and the
// other is not there.
func checkRiver(ctx context.Context, t *testing.T, db *sql.DB, client *river.Client[*sql.Tx],
	job *rivertype.JobRow,
) {
	t.Helper()
	list, err := client.JobList(ctx, river.NewJobListParams().States(rivertype.JobStateCompleted))
	check(t, "list", err)
	if len(list.Jobs) != 1 || list.Jobs[0].ID != job.ID || !reflect.DeepEqual(list.Jobs[0].Tags, job.Tags) {
		t.Errorf("completed: %+v, want job %d with tags %q", list.Jobs, job.ID, job.Tags)
	}
	if n := count(t, db, "river_job"); n != 1 {
		t.Errorf("%d jobs in the table, want 1", n)
	}
	var text string
	check(t, "query", db.QueryRowContext(ctx, "select string_agg(text, ',') from river_notes").Scan(&text))
	if text != "done" {
		t.Errorf("the worker has written %q, want %q", text, "done")
	}
}
