package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
)

// terminate ends a session by pg_terminate_backend.
func terminate(t testing.TB, db *sql.DB, pid uint32) {
	t.Helper()
	if !queryValue[bool](t, db, "select pg_terminate_backend($1)", pid) {
		t.Fatal("not terminated")
	}
}

// terminateAndWait returns once the session has ended. pg_terminate_backend itself can
// wait from PostgreSQL 14 on.
func terminateAndWait(t testing.TB, db *sql.DB, pid uint32) {
	t.Helper()
	terminate(t, db, pid)
	until(t, "the session has ended", func() bool {
		return queryValue[bool](t, db, "select not exists (select from pg_stat_activity where pid = $1)", pid)
	})
}

// A farewell is a call of OnDisconnect.
type farewell struct {
	pid uint32
	err *pgnotify.DisconnectError
}

// toldTo has OnDisconnect send to a channel, which must have room.
func toldTo(c chan<- farewell) func(*pgnotify.Config) {
	return func(config *pgnotify.Config) {
		config.OnDisconnect = func(conn *pgnotify.Conn, err *pgnotify.DisconnectError) { c <- farewell{conn.PID(), err} }
	}
}

// An observed is a session whose end is seen in each way that there is.
type observed struct {
	*session
	db           *sql.DB
	ended        chan farewell
	ctx          context.Context
	disconnected <-chan struct{}
}

// newObserved opens a pool with one session, which is not lost yet.
func newObserved(t testing.TB, dsn string, active bool, options ...func(*pgnotify.Config)) *observed {
	t.Helper()
	w := &observed{ended: make(chan farewell, 10)}
	w.db = open(t, dsn, append(options, toldTo(w.ended))...)
	w.session = take(t, w.db)
	if active {
		w.pc.Activate()
	}
	var stop context.CancelFunc
	w.ctx, stop = w.pc.WatchContext(testContext(t))
	t.Cleanup(stop)
	w.disconnected = w.pc.Disconnected()
	w.wantAlive(t)
	return w
}

func (w *observed) wantAlive(t testing.TB) {
	t.Helper()
	select {
	case <-w.disconnected:
		t.Error("disconnected")
	default:
	}
	if err := w.pc.DisconnectErr(); err != nil {
		t.Errorf("DisconnectErr: %v", err)
	}
	if err := context.Cause(w.ctx); err != nil {
		t.Errorf("cause: %v", err)
	}
	if len(w.ended) != 0 {
		t.Errorf("OnDisconnect: %v", (<-w.ended).err)
	}
}

// wantLost waits for the end of the session and checks that all tell the same of
// it. A code of "" means that the server said nothing.
func (w *observed) wantLost(t testing.TB, reason pgnotify.DisconnectReason, code pqerror.Code) {
	t.Helper()
	recv(t, w.disconnected)
	cause := context.Cause(contextDone(t, w.ctx))
	e := recv(t, w.ended)
	if e.pid != w.pc.PID() {
		t.Errorf("OnDisconnect for session %d, not %d", e.pid, w.pc.PID())
	}
	for what, err := range map[string]error{"DisconnectErr": w.pc.DisconnectErr(), "cause": cause, "OnDisconnect": e.err} {
		if lost := wantLoss(t, what, err, reason, code); lost.Sent || !lost.Time.Equal(e.err.Time) {
			t.Errorf("%s: sent %v, at %v; OnDisconnect says %v", what, lost.Sent, lost.Time, e.err.Time)
		}
	}
	if len(w.ended) != 0 {
		t.Errorf("OnDisconnect again: %v", (<-w.ended).err)
	}
}

// wantLoss checks what is told of a loss.
func wantLoss(t testing.TB, what string, err error, reason pgnotify.DisconnectReason, code pqerror.Code) *pgnotify.DisconnectError {
	t.Helper()
	lost, ok := asError[*pgnotify.DisconnectError](err)
	if !ok {
		t.Fatalf("%s: got %v, want a DisconnectError: %v", what, err, reason)
	}
	if lost.Reason != reason {
		t.Errorf("%s: %v: reason %q, want %q", what, err, lost.Reason, reason)
	}
	var got pqerror.Code
	if server, ok := asError[*pq.Error](err); ok {
		got = server.Code
	}
	if got != code {
		t.Errorf("%s: %v: SQLSTATE %q, want %q", what, err, got, code)
	}
	return lost
}

// contextDone waits for the end of ctx.
func contextDone(t testing.TB, ctx context.Context) context.Context {
	t.Helper()
	recv(t, ctx.Done())
	return ctx
}

// eachObserved runs a test over each way to reach the server, with a passive and
// an active session, in parallel.
func eachObserved(t *testing.T, f func(t *testing.T, admin *sql.DB, newObserved func(options ...func(*pgnotify.Config)) *observed)) {
	t.Helper()
	t.Parallel()
	admin := open(t, dsn(t))
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				f(t, admin, func(options ...func(*pgnotify.Config)) *observed {
					t.Helper()
					return newObserved(t, m.dsn, active, options...)
				})
			})
		}
	}
}

// wantSoon checks how long things took that should take less than 50 ms. On a
// machine that is busy with other tests not all do; but what looks only now and
// then, or waits, never does.
func wantSoon(t *testing.T, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	least, middle := took[0], took[len(took)/2]
	t.Logf("seen after %v (median of %d, %v to %v)", middle, len(took), least, took[len(took)-1])
	if least > 50*time.Millisecond || middle > time.Second {
		t.Errorf("seen after %v", took)
	}
}

// D1: a query whose session is terminated ends at once, with the server's reason.
// The server itself waits the 0.2 s.
func TestTerminatedDuringAQuery(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		var took []time.Duration
		for range 3 {
			w := newObserved()
			var ended time.Time
			done := async(t, func() error {
				_, err := w.ExecContext(w.ctx, "select pg_sleep(60)")
				ended = time.Now()
				return err
			})
			untilWaiting(t, admin, w.pc.PID(), "PgSleep")
			start := time.Now()
			mustExec(t, admin, "select pg_terminate_backend($1) from pg_sleep(0.2)", w.pc.PID())
			returned := time.Now()
			err := recv(t, done)
			took = append(took, ended.Sub(returned))
			if early := ended.Sub(start); early < 200*time.Millisecond {
				t.Errorf("ended after %v", early)
			}
			if lost := wantLoss(t, "the query", err, pgnotify.AdminShutdown, "57P01"); !lost.Sent {
				t.Errorf("not sent: %v", err)
			}
			w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		}
		wantSoon(t, took)
	})
}

// D2: an idle session that is terminated is known to be lost, and why, without
// anybody using it.
func TestIdleSessionIsTerminated(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		var took []time.Duration
		for range 5 {
			w := newObserved()
			terminate(t, admin, w.pc.PID())
			start := time.Now()
			recv(t, w.disconnected)
			took = append(took, time.Since(start))
			w.wantLost(t, pgnotify.AdminShutdown, "57P01")
			if _, err := w.pc.SyscallConn(); !pgnotify.IsDisconnect(err) {
				t.Errorf("SyscallConn: %v", err)
			}
			recv(t, w.pc.Disconnected())
			late, stop := w.pc.WatchContext(testContext(t))
			defer stop()
			wantLoss(t, "a late cause", context.Cause(late), pgnotify.AdminShutdown, "57P01")
			if status := w.pc.TransactionStatus(); status != pgnotify.TransactionUnknown {
				t.Errorf("status: %v", status)
			}
			err := execError(w.ExecContext(testContext(t), "select 1"))
			if lost := wantLoss(t, "a statement", err, pgnotify.AdminShutdown, "57P01"); lost.Sent {
				t.Errorf("sent: %v", err)
			}
		}
		wantSoon(t, took)
	})
}

// D2: the program has the session's turn while the server ends it. Who has it
// finds the end, at the latest when it is given back.
func TestLostWhileRowsAreOpen(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		rows, err := w.QueryContext(testContext(t), "select generate_series(1, 3)")
		if err != nil {
			t.Fatal(err)
		}
		if !rows.Next() {
			t.Fatal(rows.Err())
		}
		terminate(t, admin, w.pc.PID())
		until(t, "the backend has ended", func() bool {
			return !queryValue[bool](t, admin, "select exists (select from pg_stat_activity where pid = $1)", w.pc.PID())
		})
		rows.Close()
		w.wantLost(t, pgnotify.AdminShutdown, "57P01")
	})
}

// D2: within a transaction that is idle.
func TestLostInAnIdleTransaction(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		tx := mustBegin(t, w.Conn)
		mustExec(t, tx, "select 1")
		terminate(t, admin, w.pc.PID())
		w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		wantLoss(t, "a statement", execError(tx.ExecContext(testContext(t), "select 1")), pgnotify.AdminShutdown, "57P01")
		wantLoss(t, "COMMIT", tx.Commit(), pgnotify.AdminShutdown, "57P01")
	})
}

// A handle that was returned waits for nothing any more.
func TestReleaseEndsTheWatch(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, stop := s.pc.WatchContext(testContext(t))
		defer stop()
		disconnected := s.pc.Disconnected()
		s.Close()
		recv(t, disconnected)
		if err := context.Cause(contextDone(t, ctx)); !errors.Is(err, pgnotify.ErrReleased) || pgnotify.IsDisconnect(err) {
			t.Errorf("cause: %v", err)
		}
		if err := s.pc.DisconnectErr(); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("DisconnectErr: %v", err)
		}
		if _, err := s.pc.SyscallConn(); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("SyscallConn: %v", err)
		}
		recv(t, s.pc.Disconnected())
		late, stop := s.pc.WatchContext(testContext(t))
		stop()
		if err := context.Cause(late); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("a late cause: %v", err)
		}
	})
}

// A handle that was returned is not told of what happens to the next borrower, and
// the next borrower is.
func TestLossIsTheBorrowers(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		db.SetMaxOpenConns(1)
		admin := open(t, dsn(t))
		first := take(t, db)
		first.Close()
		second := take(t, db)
		if first.pc.PID() != second.pc.PID() {
			t.Fatal("not the same session")
		}
		ctx, stop := second.pc.WatchContext(testContext(t))
		defer stop()
		disconnected := second.pc.Disconnected()
		recv(t, first.pc.Disconnected())
		select {
		case <-disconnected:
			t.Error("the second borrower's session is lost")
		default:
		}
		terminate(t, admin, second.pc.PID())
		recv(t, disconnected)
		wantLoss(t, "cause", context.Cause(contextDone(t, ctx)), pgnotify.AdminShutdown, "57P01")
		if err := first.pc.DisconnectErr(); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("the first borrower: %v", err)
		}
	})
}
