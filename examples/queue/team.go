package main

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify"
)

// workers is how many there are in a team.
const workers = 4

// A team is a group of workers that start and stop together. When one fails, all stop.
type team struct {
	db    *sql.DB
	begun *tally     // how often each job was begun
	done  chan int64 // the jobs that were done
	wakes atomic.Int64
	ctx   context.Context // of the workers; its cause is why they stop
	stop  context.CancelCauseFunc
	ended sync.WaitGroup
}

// newTeam starts workers, which work until Close, or until ctx ends.
func newTeam(ctx context.Context, db *sql.DB, l *pgnotify.Listener, begun *tally) *team {
	t := &team{db: db, begun: begun, done: make(chan int64, 1000)}
	t.ctx, t.stop = context.WithCancelCause(ctx)
	for i := range workers {
		w := &worker{
			name: i + 1, db: db, do: t.do,
			done: func(job int64) { t.done <- job },
			woke: func() { t.wakes.Add(1) },
		}
		t.ended.Go(func() { t.stop(w.run(t.ctx, l)) }) // ends with t.ctx; joined by Close
	}
	return t
}

// do is the work: it takes a few milliseconds, and has an effect on the database.
func (t *team) do(ctx context.Context, tx *sql.Tx, job int64) error {
	t.begun.add(job)
	time.Sleep(5 * time.Millisecond)
	_, err := tx.ExecContext(ctx, "INSERT INTO pgnotify_queue_effects VALUES ($1)", job)
	return err
}

// Close tells the workers to stop, and waits until they have finished their jobs. It
// returns the error of a worker that failed before.
func (t *team) Close() error {
	t.stop(context.Canceled)
	t.ended.Wait()
	if err := context.Cause(t.ctx); err != context.Canceled {
		return err
	}
	return nil
}

// A tally counts how often each job was begun. It is safe for concurrent use.
type tally struct {
	mu    sync.Mutex // guards times
	times map[int64]int
}

func (t *tally) add(job int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times[job]++
}

// twice returns how many jobs were begun more than once.
func (t *tally) twice() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, times := range t.times {
		if times > 1 {
			n++
		}
	}
	return n
}
