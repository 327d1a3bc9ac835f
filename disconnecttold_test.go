package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// D12: each session that the pool had is told of once, whether it was idle, busy,
// or closed.
func TestOnDisconnectRunsOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, admin *sql.DB) {
		for _, m := range modes(t) {
			calls := make(chan farewell, 100)
			db := open(t, m.dsn, toldTo(calls))
			idle, busy, closed := take(t, db), take(t, db), take(t, db)
			want := func(what string, pid uint32, reason pgnotify.DisconnectReason) {
				t.Helper()
				if got := recv(t, calls); got.pid != pid || got.err.Reason != reason {
					t.Errorf("%s: session %d, %v; want %d, %v", what, got.pid, got.err, pid, reason)
				}
			}
			terminate(t, admin, idle.pc.PID())
			want("idle", idle.pc.PID(), pgnotify.AdminShutdown)
			if _, err := busy.ExecContext(testContext(t), "select pg_terminate_backend(pg_backend_pid())"); !pgnotify.IsDisconnect(err) {
				t.Error(err)
			}
			want("busy", busy.pc.PID(), pgnotify.AdminShutdown)
			closed.Close()
			idle.Close()
			busy.Close()
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			want("closed", closed.pc.PID(), pgnotify.ClosedLocally)
			if len(calls) != 0 {
				t.Errorf("more calls: %v", (<-calls).err)
			}
		}
	})
}

// D12: once, also where the server, the pool and the program end a session at the
// same time.
func TestOnDisconnectRunsOnceInARace(t *testing.T) {
	eachMode(t, func(t *testing.T, admin *sql.DB) {
		const sessions = 30
		calls := make(chan farewell, 10*sessions)
		for _, m := range modes(t) {
			db := sql.OpenDB(connector(t, m.dsn, toldTo(calls)))
			pids := make(map[uint32]bool)
			var group sync.WaitGroup
			start := make(chan struct{})
			for i := range sessions {
				s := take(t, db)
				pids[s.pc.PID()] = true
				group.Go(func() {
					<-start
					_ = execError(admin.ExecContext(testContext(t), "select pg_terminate_backend($1)", s.pc.PID()))
				})
				group.Go(func() {
					<-start
					switch i % 3 {
					case 0:
						s.pc.Close()
					case 1:
						_ = execError(s.ExecContext(testContext(t), "select 1"))
					case 2:
						s.Close()
					}
				})
				t.Cleanup(func() { s.Close() })
			}
			close(start)
			group.Wait()
			db.Close()
			for len(pids) > 0 {
				e := recv(t, calls)
				if !pids[e.pid] {
					t.Fatalf("session %d once more: %v", e.pid, e.err)
				}
				delete(pids, e.pid)
				if e.err.Reason != pgnotify.AdminShutdown && e.err.Reason != pgnotify.ClosedLocally {
					t.Errorf("session %d: %v", e.pid, e.err)
				}
			}
		}
	})
}

// D12: OnDisconnect may use everything, the lost session's handle and the pool
// included.
func TestOnDisconnectRunsOutsideLocks(t *testing.T) {
	eachMode(t, func(t *testing.T, admin *sql.DB) {
		for _, m := range modes(t) {
			var db *sql.DB
			var other *session
			var disconnected <-chan struct{}
			ready, done := make(chan struct{}), make(chan struct{})
			var once sync.Once
			db = open(t, m.dsn, func(c *pgnotify.Config) {
				c.OnDisconnect = func(conn *pgnotify.Conn, lost *pgnotify.DisconnectError) {
					once.Do(func() { // db.Close ends the others
						defer close(done)
						<-ready
						if n := db.Stats().OpenConnections; n == 0 {
							t.Errorf("%d connections", n)
						}
						recv(t, disconnected)
						wantLoss(t, "DisconnectErr", conn.DisconnectErr(), lost.Reason, "57P01")
						recv(t, conn.Disconnected())
						ctx, stop := conn.WatchContext(context.Background())
						defer stop()
						wantLoss(t, "cause", context.Cause(ctx), lost.Reason, "57P01")
						wantLoss(t, "Cancel, then a statement", errors.Join(conn.Cancel(testContext(t)), conn.Ping(testContext(t))), lost.Reason, "57P01")
						conn.AddNoticeHandler(func(*pgnotify.Notice) {})()
						if got := queryValue[uint32](t, other, "select pg_backend_pid()"); got != other.pc.PID() {
							t.Errorf("another session: %d", got)
						}
						queryValue[int](t, db, "select 1")
						if err := other.pc.DisconnectErr(); err != nil {
							t.Errorf("another session: %v", err)
						}
						other.Close()
						if err := conn.Close(); err != nil {
							t.Error(err)
						}
						if err := db.Close(); err != nil {
							t.Error(err)
						}
					})
				}
			})
			s := take(t, db)
			other, disconnected = take(t, db), s.pc.Disconnected()
			close(ready)
			terminate(t, admin, s.pc.PID())
			recv(t, done)
		}
	})
}

// D12, promise 6: a panic in OnDisconnect is logged, and so the end of its
// goroutine does no harm.
func TestOnDisconnectThatPanics(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		f    func()
		logs bool
	}{
		"panic":        {func() { panic("out of order") }, true},
		"nil":          {func() { var p *int; *p = 1 }, true},
		"end of it":    {runtime.Goexit, false},
		"error":        {func() { panic(errors.New("out of order")) }, true},
		"not a string": {func() { panic(struct{ x int }{1}) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			called := make(chan struct{})
			end := make(chan struct{})
			server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.WaitFor(end)}, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
			var once sync.Once
			db := open(t, server.DSN(), logTo(&log), func(config *pgnotify.Config) {
				config.OnDisconnect = func(*pgnotify.Conn, *pgnotify.DisconnectError) {
					once.Do(func() { close(called); c.f() })
				}
			})
			s := take(t, db)
			close(end)
			recv(t, called)
			recv(t, s.pc.Disconnected())
			if c.logs {
				until(t, "the panic is logged", func() bool {
					return strings.Contains(log.String(), "OnDisconnect panicked") && strings.Contains(log.String(), "stack")
				})
			}
			s.Close()
			queryValue[string](t, db, "select 1")
			if !c.logs && log.String() != "" {
				t.Errorf("logged: %s", log.String())
			}
		})
	}
}

// D12: a session that the pool never got is not told of; one that was lost before
// the pool got it is told of when it has it.
func TestOnDisconnectIsForSessionsOfThePool(t *testing.T) {
	t.Parallel()
	calls := make(chan farewell, 10)
	refused := errors.New("not this one")
	var refuse, kill bool
	var inside []farewell
	db := open(t, dsn(t), toldTo(calls), func(c *pgnotify.Config) {
		c.OnConnect = func(ctx context.Context, conn *pgnotify.Conn) error {
			if refuse {
				return refused
			}
			if kill {
				_, err := conn.ExecContext(ctx, "select pg_terminate_backend(pg_backend_pid())", nil)
				wantLoss(t, "in OnConnect", err, pgnotify.AdminShutdown, "57P01")
				for len(calls) > 0 {
					inside = append(inside, <-calls)
				}
			}
			return nil
		}
	})
	refuse = true
	if _, err := db.Conn(testContext(t)); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	refuse, kill = false, true
	s := take(t, db)
	e := recv(t, calls)
	if e.pid != s.pc.PID() || e.err.Reason != pgnotify.AdminShutdown || len(inside) != 0 {
		t.Errorf("session %d: %v; %d calls in OnConnect", e.pid, e.err, len(inside))
	}
	wantLoss(t, "DisconnectErr", s.pc.DisconnectErr(), pgnotify.AdminShutdown, "57P01")
	s.Close()
	if len(calls) != 0 {
		t.Errorf("more calls: %v", (<-calls).err)
	}
}
