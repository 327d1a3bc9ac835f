package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/fdwatch"
	"github.com/pgnotify/pgnotify/internal/pgserver"
	testrig "github.com/pgnotify/pgnotify/internal/rig"
)

// awaitArrival waits until there is something to be read on a passive session.
func awaitArrival(t testing.TB, s *session) {
	t.Helper()
	socket, err := s.pc.Socket().(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "something has arrived", func() bool { return fdwatch.Readable(socket) })
}

// ownServer starts a server that a test may stop and break, with all the ways to
// reach it that the tests' server has. It ends with the test.
func ownServer(t testing.TB) *testServer {
	t.Helper()
	ours(t)
	s, err := testrig.StartServer(map[string]string{"max_connections": "150"})
	if err != nil {
		t.Fatal(err)
	}
	ts := &testServer{Server: s, dsn: s.DSN()}
	t.Cleanup(func() {
		if err := ts.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(ts.folder)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := ts.equip(ctx); err != nil {
		t.Fatal(err)
	}
	return ts
}

// restart has the server accept sessions again, with new processes.
func restart(t testing.TB, s *testServer, how pgserver.StopMode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := s.Restart(ctx, how); err != nil {
		t.Fatal(err)
	}
}

// D3: the whole server ends. Idle and busy sessions tell why, in each way.
func TestServerStops(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	stop := func(how pgserver.StopMode) func(t *testing.T, _ *sql.DB, _ uint32) {
		return func(t *testing.T, _ *sql.DB, _ uint32) { restart(t, s, how) }
	}
	for _, c := range []struct {
		name   string
		reason pgnotify.DisconnectReason
		code   pqerror.Code
		cause  func(t *testing.T, admin *sql.DB, victim uint32)
	}{
		{"fast", pgnotify.AdminShutdown, "57P01", stop(pgserver.Fast)},
		{"immediate", pgnotify.AdminShutdown, "57P01", stop(pgserver.Immediate)},
		{"crash", pgnotify.CrashShutdown, "57P02", func(t *testing.T, admin *sql.DB, victim uint32) {
			// The server kills its own process, so that it works in a container too.
			_, _ = admin.ExecContext(testContext(t), fmt.Sprintf("copy (select 1) to program 'cat > /dev/null; kill -9 %d'", victim))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			admin, victims := open(t, s.DSN()), open(t, s.DSN())
			until(t, "the server answers", func() bool { return admin.PingContext(testContext(t)) == nil })
			if c.name == "immediate" && serverVersion(t, admin) < 14 {
				c.reason, c.code = pgnotify.CrashShutdown, "57P02" // the code was changed then
			}
			victim := newObserved(t, s.DSN(), false)
			var idle, busy, inTx []*observed
			var answers []<-chan error
			var txs []*sql.Tx
			for _, m := range s.modes() {
				for _, active := range []bool{false, true} {
					idle = append(idle, newObserved(t, m.dsn, active))
					w := newObserved(t, m.dsn, active)
					busy = append(busy, w)
					answers = append(answers, async(t, func() error {
						return execError(w.ExecContext(testContext(t), "select pg_sleep(60)"))
					}))
					untilWaiting(t, admin, w.pc.PID(), "PgSleep")
					w = newObserved(t, m.dsn, active)
					inTx, txs = append(inTx, w), append(txs, mustBegin(t, w))
				}
			}
			c.cause(t, victims, victim.pc.PID())
			silent := 0
			// An immediate stop and a crash are told from a signal handler of the server,
			// which cannot always write.
			expected := func(w *observed) (pgnotify.DisconnectReason, pqerror.Code) {
				recv(t, w.disconnected)
				if lost, ok := asError[*pgnotify.DisconnectError](w.pc.DisconnectErr()); ok &&
					c.name != "fast" && lost.Reason == pgnotify.PeerClosed {
					silent++
					return pgnotify.PeerClosed, ""
				}
				return c.reason, c.code
			}
			for i, answer := range answers {
				reason, code := expected(busy[i])
				if lost := wantLoss(t, "the statement", recv(t, answer), reason, code); !lost.Sent {
					t.Errorf("statement %d: not sent", i)
				}
				busy[i].wantLost(t, reason, code)
			}
			for i := range idle {
				reason, code := expected(idle[i])
				idle[i].wantLost(t, reason, code)
				reason, code = expected(inTx[i])
				inTx[i].wantLost(t, reason, code)
				wantLoss(t, "COMMIT", txs[i].Commit(), reason, code)
			}
			if silent > len(idle) {
				t.Errorf("%d of %d sessions were not told why", silent, 3*len(idle))
			}
			if c.name == "crash" {
				victim.wantLost(t, pgnotify.PeerClosed, "")
			}
		})
	}
}

// D7: the server was restarted while sessions lay in the pool. Nobody notices.
func TestRestartWithIdleSessions(t *testing.T) {
	t.Parallel()
	const idle, queries, workers = 50, 1000, 8
	s := ownServer(t)
	for _, how := range []pgserver.StopMode{pgserver.Fast, pgserver.Immediate} {
		for _, m := range s.modes() {
			for _, active := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/%s/active=%v", how, m.name, active), func(t *testing.T) {
					ended := make(chan farewell, 1000)
					db := open(t, m.dsn, toldTo(ended))
					db.SetMaxIdleConns(idle)
					db.SetMaxOpenConns(idle)
					old := fill(t, db, idle, active)
					restart(t, s, how)
					var group sync.WaitGroup
					for range workers {
						group.Go(func() {
							for i := range queries / workers {
								if err := ask(testContext(t), db, i); err != nil {
									t.Errorf("query %d: %v", i, err)
								}
							}
						})
					}
					group.Wait()
					for range idle { // all of them, although few were asked for
						e := recv(t, ended)
						if !old[e.pid] || how == pgserver.Fast && e.err.Reason != pgnotify.AdminShutdown {
							t.Errorf("session %d: %v", e.pid, e.err)
						}
						delete(old, e.pid)
					}
				})
			}
		}
	}
}

// fill puts sessions into a pool and returns their process ids.
func fill(t *testing.T, db *sql.DB, n int, active bool) map[uint32]bool {
	t.Helper()
	var sessions []*session
	pids := make(map[uint32]bool)
	for range n {
		s := take(t, db)
		if active {
			s.pc.Activate()
		}
		mustExec(t, s, "select 1")
		sessions, pids[s.pc.PID()] = append(sessions, s), true
	}
	for _, s := range sessions {
		s.Close()
	}
	if stats := db.Stats(); stats.Idle != n {
		t.Fatalf("%d idle sessions, want %d", stats.Idle, n)
	}
	return pids
}

// ask runs the i-th query, in one of the ways in which programs do.
func ask(ctx context.Context, db *sql.DB, i int) error {
	var one int
	switch i % 4 {
	case 0:
		return db.QueryRowContext(ctx, "select 1").Scan(&one)
	case 1:
		return db.QueryRowContext(ctx, "select $1::int", i).Scan(&one)
	case 2:
		return execError(db.ExecContext(ctx, "select 1"))
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := tx.QueryRowContext(ctx, "select 1").Scan(&one); err != nil {
		return err
	}
	return tx.Commit()
}
