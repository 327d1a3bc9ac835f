package main

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A pool holds four sessions and reports those it loses.
type pool struct {
	*sql.DB
	made   atomic.Int32
	losses chan loss
}

type loss struct {
	pid uint32
	*pgnotify.DisconnectError
}

const size = 4

// open sets the two functions that receive events of all sessions.
func open(dsn string) (*pool, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	p := &pool{losses: make(chan loss, 100)}
	config.OnConnect = func(context.Context, *pgnotify.Conn) error {
		p.made.Add(1)
		return nil
	}
	config.OnDisconnect = func(conn *pgnotify.Conn, err *pgnotify.DisconnectError) {
		if err.Reason != pgnotify.ClosedLocally {
			p.losses <- loss{conn.PID(), err}
		}
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		return nil, err
	}
	p.DB = sql.OpenDB(connector)
	p.SetMaxIdleConns(size)
	return p, nil
}

// suffer makes all sessions idle, lets something happen to them, prints what was
// reported, and uses the pool.
func (p *pool) suffer(ctx context.Context, do func(context.Context, *pool, []uint32) (int, error)) error {
	pids, err := p.fill(ctx)
	if err != nil {
		return err
	}
	start, made := time.Now(), p.made.Load()
	lost, err := do(ctx, p, pids)
	if err == errNotHere {
		printLine("             %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.printLosses(ctx, start, lost); err != nil {
		return err
	}
	if pids, err = p.fill(ctx); err != nil {
		return err
	}
	printLine("             the pool: %d sessions answer, %d of them new", len(pids), p.made.Load()-made)
	return nil
}

// fill takes four sessions at a time and returns them, so that all of them are idle.
// The pool itself replaces those it has lost.
func (p *pool) fill(ctx context.Context) (pids []uint32, err error) {
	for range size {
		conn, err := p.Conn(ctx)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		var pid uint32
		if err := conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// printLosses prints the losses that OnDisconnect reported. It uses no session.
func (p *pool) printLosses(ctx context.Context, start time.Time, count int) error {
	late := time.After(10 * time.Second)
	for range count {
		select {
		case l := <-p.losses:
			seen := float64(l.Time.Sub(start).Microseconds()) / 1000
			printLine("  %6.1f ms  backend %d: %v: %v", seen, l.pid, l.Reason, l.Err)
		case <-late:
			return errors.New("no word of a lost session: docs/disconnection.md says what this system can do")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
