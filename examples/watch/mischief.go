package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// A mischief makes sessions get lost. It has a session of its own.
type mischief struct {
	db     *sql.DB
	server *pgserver.Server
}

// errNotHere is the error of a step that this server does not allow.
var errNotHere = errors.New("not with this server")

func newMischief(ctx context.Context, server *pgserver.Server) (*mischief, error) {
	db, err := sql.Open("pgnotify", server.DSN())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return &mischief{db: db, server: server}, db.PingContext(ctx)
}

func (m *mischief) terminateIdle(ctx context.Context, _ *pool, pids []uint32) (int, error) {
	_, err := m.db.ExecContext(ctx, "SELECT pg_terminate_backend($1)", pids[0])
	return 1, err
}

// terminateBusy ends a session while its statement runs.
func (m *mischief) terminateBusy(ctx context.Context, p *pool, _ []uint32) (int, error) {
	statement := make(chan error, 1)
	go func() {
		_, err := p.ExecContext(ctx, "SELECT pg_sleep(60) /* watch */")
		statement <- err
	}()
	for busy := 0; busy == 0; {
		err := m.db.QueryRowContext(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE query = 'SELECT pg_sleep(60) /* watch */' AND state = 'active'`).Scan(&busy)
		if err != nil {
			return 0, err
		}
	}
	var lost *pgnotify.DisconnectError
	err := <-statement
	if !errors.As(err, &lost) {
		return 0, fmt.Errorf("the statement was not lost: %v", err)
	}
	printLine("             its statement may have been executed: Sent is %v", lost.Sent)
	return 1, nil
}

// idleTimeout has the server end a session that is in the pool.
func (m *mischief) idleTimeout(ctx context.Context, p *pool, _ []uint32) (int, error) {
	_, err := p.ExecContext(ctx, "SET idle_session_timeout = '100ms'")
	var server *pq.Error
	if errors.As(err, &server) && server.Code == pqerror.UndefinedObject { // PostgreSQL 13 has none
		return 0, errNotHere
	}
	return 1, err
}

// killBackend kills a process of the server. The server then assumes that its shared
// memory is damaged, ends all sessions, and recovers; meanwhile it refuses new ones.
func (m *mischief) killBackend(ctx context.Context, _ *pool, pids []uint32) (int, error) {
	if m.server.PID() == 0 { // it is not ours, or runs in a container
		return 0, errNotHere
	}
	var before, after int
	if err := m.db.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&before); err != nil {
		return 0, err
	}
	backend, err := os.FindProcess(int(pids[0]))
	if err != nil {
		return 0, err
	}
	if err := backend.Kill(); err != nil {
		return 0, err
	}
	for err != nil || after == 0 || after == before {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		time.Sleep(10 * time.Millisecond)
		err = m.db.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&after)
	}
	return size, nil
}

func (m *mischief) restart(ctx context.Context, _ *pool, _ []uint32) (int, error) {
	if !m.server.Superuser() { // it is not ours
		return 0, errNotHere
	}
	return size, m.server.Restart(ctx, pgserver.Fast)
}
