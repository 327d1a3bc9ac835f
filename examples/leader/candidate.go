package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/pgnotify/pgnotify"
)

// The lock, named by two numbers that nobody else uses in this database: the session
// that holds it leads.
const lockClass, lockID = 20190, 1

// retry is how often a candidate asks for the lock. It does not wait in
// pg_advisory_lock, because a statement that waits for days holds back VACUUM for as
// long.
const retry = 400 * time.Millisecond

// A candidate takes part in the election.
type candidate struct {
	db   *sql.DB
	name string
}

// run takes part until ctx ends.
func (c *candidate) run(ctx context.Context) {
	waits := false
	for ctx.Err() == nil {
		led, err := c.lead(ctx)
		pause := retry
		switch {
		case led:
			waits, pause = false, 3*retry // others first
		case err != nil && ctx.Err() == nil: // the server may be away for a while
			c.say("cannot take part: %v", err)
		case err == nil && !waits:
			waits = true
			c.say("waits")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// lead tries to get the lock, and works for as long as it holds it.
func (c *candidate) lead(ctx context.Context) (led bool, err error) {
	conn, err := c.db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		return false, err
	}
	watched, stop := pc.WatchContext(ctx) // ends with ctx, and with the session
	defer stop()

	err = conn.QueryRowContext(watched, "SELECT pg_try_advisory_lock($1, $2)", lockClass, lockID).Scan(&led)
	if err == nil && !led {
		return false, nil
	}
	defer giveUp(conn) // also after an error: the server may have locked
	var term int64
	if err == nil { // a number that is higher for each leader
		err = conn.QueryRowContext(watched, "SELECT txid_current()").Scan(&term)
	}
	if err != nil {
		return false, err
	}
	c.say("leads, term %d, backend %d", term, pc.PID())
	c.work(watched)
	return true, nil
}

// giveUp closes the session, which frees the lock. Closing conn alone would return the
// session to the pool, with the lock.
func giveUp(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// work is what only one process may do. Everything that it calls gets ctx.
func (c *candidate) work(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C: // a piece of work
		case <-ctx.Done():
			var lost *pgnotify.DisconnectError
			if errors.As(context.Cause(ctx), &lost) {
				c.say("has stopped, %.1f ms after it heard: %v", milliseconds(time.Since(lost.Time)), lost.Reason)
			} else {
				c.say("has stopped: %v", context.Cause(ctx))
			}
			return
		}
	}
}

func (c *candidate) say(format string, args ...any) { printLine(c.name+" "+format, args...) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
