package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"time"
)

// What the idle scenario records of a pool of idle sessions.
const (
	idleGoroutines = "idle goroutines" // more than before, for all of them
	idleThreads    = "idle threads"    // the same, of the operating system
	idleHeap       = "idle heap"       // bytes, for each
	idleStack      = "idle stack"      // the same
	idleBytes      = "idle bytes"      // both
)

// moreThanLibpq is the label of how much heavier a session is.
const moreThanLibpq = "both, more than lib/pq's"

// moreGoroutines is the label of the goroutines that all idle sessions together
// need.
const moreGoroutines = "goroutines more, for all"

// The sessions of a round, and the files that a process needs besides them.
const (
	manySessions = 10_000
	otherFiles   = 100
	noLimit      = 1 << 30
)

// sessionsToHave returns how many sessions a round has, and what to say of it.
func sessionsToHave() (n int, remark string) {
	n = max(1, min(manySessions, openFiles()-otherFiles))
	if n < manySessions {
		remark = fmt.Sprintf(" (not %d: the limit of open files is %d)", manySessions, openFiles())
	}
	return n, remark
}

// idleScenario has pools full of idle sessions, on a server that says nothing.
func idleScenario() scenario {
	count, remark := sessionsToHave()
	s := scenario{
		name:   "idle",
		about:  "a pool full of idle sessions; pgnotify's are watched" + remark,
		unit:   "sessions",
		count:  count,
		quick:  min(count, 300),
		rounds: 3,
		metrics: []metric{
			{label: moreGoroutines, quantity: idleGoroutines, summary: medianOf},
			{label: "OS threads more, for all", quantity: idleThreads, summary: medianOf},
			{label: "heap, bytes a session", quantity: idleHeap, summary: medianOf},
			{label: "the same, more than without a socket", quantity: idleHeap, summary: medianOf, base: []string{noSocketName}, relate: difference},
			{label: "stack, bytes a session", quantity: idleStack, summary: medianOf},
			{label: moreThanLibpq, quantity: idleBytes, summary: medianOf, base: []string{libpqName}, relate: difference},
		},
	}
	registered := func(d string) func(string) (*sql.DB, error) {
		return func(dsn string) (*sql.DB, error) { return sql.Open(d, dsn) }
	}
	for _, c := range []struct {
		name string
		open func(dsn string) (*sql.DB, error)
	}{
		{pgnotifyName, openWatched(true)},
		{noSocketName, openWatched(false)},
		{libpqName, registered("postgres")},
		{pgxName, registered("pgx")},
	} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, _ string) (*worker, error) {
			g, err := startChild(ctx, greeterFlag)
			if err != nil {
				return nil, err
			}
			return &worker{
				work: func(ctx context.Context, count int, r record) error {
					db, err := c.open(g.dsn)
					if err != nil {
						return err
					}
					return errors.Join(beIdle(ctx, db, count, r), db.Close())
				},
				close: g.close,
			}, nil
		}})
	}
	return s
}

// beIdle records what idle sessions need, more than the pool without any.
func beIdle(ctx context.Context, db *sql.DB, count int, r record) error {
	before := takeStock()
	if err := fill(ctx, db, count); err != nil {
		return err
	}
	after := takeStock()
	if n := db.Stats().Idle; n != count {
		return fmt.Errorf("%d of %d sessions are idle", n, count)
	}
	r.add(idleGoroutines, after.goroutines-before.goroutines)
	r.add(idleThreads, after.threads-before.threads)
	r.add(idleHeap, (after.heap-before.heap)/float64(count))
	r.add(idleStack, (after.stack-before.stack)/float64(count))
	r.add(idleBytes, (after.heap-before.heap+after.stack-before.stack)/float64(count))
	return nil
}

// fill opens sessions, and leaves them idle in the pool.
func fill(ctx context.Context, db *sql.DB, count int) (err error) {
	db.SetMaxIdleConns(count)
	for range count {
		c, e := db.Conn(ctx)
		if e != nil {
			return errors.Join(err, e)
		}
		defer func() { err = errors.Join(err, c.Close()) }() // to the pool, when all are open
	}
	return nil
}

// A stock is what there is of this process at a moment.
type stock struct{ goroutines, threads, heap, stack float64 }

// takeStock waits until goroutines have ended that are about to, and collects the
// heap twice, so that pools of objects are empty.
func takeStock() stock {
	goroutines := runtime.NumGoroutine()
	for quiet := 0; quiet < 20; quiet++ {
		time.Sleep(time.Millisecond)
		if n := runtime.NumGoroutine(); n != goroutines {
			goroutines, quiet = n, 0
		}
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stock{
		goroutines: float64(goroutines),
		threads:    float64(pprof.Lookup("threadcreate").Count()),
		heap:       float64(m.HeapAlloc),
		stack:      float64(m.StackInuse),
	}
}
