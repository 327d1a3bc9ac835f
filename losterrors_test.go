package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
	"github.com/pgnotify/pgnotify/internal/fdwatch"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// sleeping are statements that take a minute, for each way to run one.
var sleeping = map[string]func(ctx context.Context, r *rig) error{
	"exec": func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insertSleeping("'"+r.mark+"'")))
	},
	"exec with arguments": func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insertSleeping("$1"), r.mark))
	},
	"query": func(ctx context.Context, r *rig) error {
		return readRows(r.db.QueryContext(ctx, r.insertSleeping("'"+r.mark+"'")+returning))
	},
	"query row with arguments": func(ctx context.Context, r *rig) error {
		return scan(r.db.QueryRowContext(ctx, r.insertSleeping("$1")+returning, r.mark))
	},
	"prepared": func(ctx context.Context, r *rig) error {
		st, err := r.db.PrepareContext(ctx, r.insertSleeping("$1"))
		if err != nil {
			return fmt.Errorf("prepare: %v", err)
		}
		defer st.Close()
		return execError(st.ExecContext(ctx, r.mark))
	},
	"in a transaction": func(ctx context.Context, r *rig) error {
		tx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin: %v", err)
		}
		defer tx.Rollback()
		return execError(tx.ExecContext(ctx, r.insertSleeping("$1"), r.mark))
	},
	"on a connection": func(ctx context.Context, r *rig) error {
		conn, err := r.db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("conn: %v", err)
		}
		defer conn.Close()
		return execError(conn.ExecContext(ctx, r.insertSleeping("'"+r.mark+"'")))
	},
}

func (r *rig) insertSleeping(mark string) string {
	return "insert into " + r.table + " select " + mark + " from pg_sleep(60)"
}

// D13: the server says why it ends the session during a statement.
func TestTerminatedDuringAStatement(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		r := newRig()
		for name, ask := range sleeping {
			r.fresh(t)
			pid := queryValue[int](t, r.db, "select pg_backend_pid()")
			done := make(chan error, 1)
			go func() { done <- ask(testContext(t), r) }() // ends with the session
			until(t, "the statement sleeps", func() bool {
				return queryValue[bool](t, r.server,
					"select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = $1", pid)
			})
			mustExec(t, r.server, "select pg_terminate_backend($1)", pid)
			err := recv(t, done)
			wantReason(t, err, pgnotify.AdminShutdown)
			if code := serverError(t, err).Code; code != "57P01" {
				t.Errorf("%s: SQLSTATE %s", name, code)
			}
			if n := r.count(t); n != 0 || r.more() != 0 {
				t.Errorf("%s: %d marks, %d more sessions", name, n, r.more())
			}
		}
		r.fresh(t)
	})
}

// D13: the server's reason is told also where the statement was done.
func TestTerminatedBehindAStatement(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][][]byte{
		"done":       {pgfake.Complete("INSERT 0 1")},
		"with a row": {pgfake.Columns("mark"), pgfake.Row("x"), pgfake.Complete("INSERT 0 1")},
		"not done":   {},
	} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				server := pgfake.Start(t,
					pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
						pgfake.Send(append(answer, pgfake.Error("FATAL", "57P02", "crash"))...)},
					pgfake.Script{pgfake.Greet(), pgfake.Serve()})
				db := open(t, server.DSN())
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				s.Close()
				err := readRows(db.QueryContext(testContext(t), "insert"))
				wantReason(t, err, pgnotify.CrashShutdown)
				if code := serverError(t, err).Code; code != "57P02" || server.Sessions() != 1 {
					t.Errorf("SQLSTATE %s, %d sessions", code, server.Sessions())
				}
				queryValue[string](t, db, "select 1")
			})
		}
	}
}

// D13: the answer may break off at each byte.
func TestAnswerThatBreaksOff(t *testing.T) {
	t.Parallel()
	m := newMarks(t)
	way := modes(t)[0]
	for _, active := range []bool{false, true} {
		for _, name := range []string{"exec", "query with arguments", "commit"} {
			t.Run(fmt.Sprintf("%s, active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				q, r := requests[name], m.rig(t, way, active)
				for keep := 0; ; keep++ {
					r.fresh(t)
					ask, after := q.ready(t, testContext(t), r)
					r.proxy.Break(faultproxy.Fault{Keep: keep, Skip: q.skip})
					err := ask()
					after()
					if n := r.count(t); n != 1 {
						t.Errorf("%d bytes of the answer: %d marks", keep, n)
					}
					if err == nil { // all of it
						break
					}
					r.wantLost(t, err, pgnotify.PeerClosed)
				}
			})
		}
	}
}

// D13: rows that were executed come only in part.
func TestLostWhileRowsArrive(t *testing.T) {
	const many = 30_000
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		r := newRig()
		for _, reset := range []bool{false, true} {
			r.fresh(t)
			hold, done := make(chan struct{}), make(chan error, 1)
			r.proxy.Break(faultproxy.Fault{Keep: 100_000, Reset: reset, Hold: hold})
			got := 0
			go func() { // ends with the session
				rows, err := r.db.QueryContext(testContext(t),
					fmt.Sprintf("insert into %s select '%s' from generate_series(1, %d) returning mark", r.table, r.mark, many))
				if err != nil {
					done <- err
					return
				}
				for rows.Next() {
					got++
				}
				err = rows.Err()
				rows.Close()
				done <- err
			}()
			until(t, "all are inserted", func() bool { return r.count(t) == many })
			close(hold)
			reason := pgnotify.PeerClosed
			if reset {
				reason = pgnotify.Reset
			}
			r.wantLost(t, recv(t, done), reason)
			if n := r.count(t); n != many || got >= many {
				t.Errorf("%d marks, %d rows came", n, got)
			}
		}
		r.fresh(t)
	})
}

// A watchedSocket is the last connection that a pool made.
type watchedSocket struct{ conn atomic.Pointer[net.Conn] }

func (w *watchedSocket) option(c *pgnotify.Config) {
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		w.conn.Store(&conn)
		return conn, err
	}
}

// readable reports whether something has arrived that was not read: the end.
func (w *watchedSocket) readable() bool {
	raw, err := (*w.conn.Load()).(syscall.Conn).SyscallConn()
	return err == nil && fdwatch.Readable(raw)
}

// D15: a session that has answered with an error, and then ended, is not handed
// out again.
func TestErrorAndThenTheEnd(t *testing.T) {
	t.Parallel()
	failure := pgfake.Error("ERROR", "22012", "division by zero")
	tls := pgfake.Script{pgfake.StartTLS(fakeTLS(t, nil))}
	for name, script := range map[string]pgfake.Script{
		"end":   {pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(failure, pgfake.Ready('I'))},
		"reset": {pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(failure, pgfake.Ready('I')), pgfake.Reset()},
		"with an argument": {pgfake.Greet(), pgfake.Await('H'), pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"),
			pgfake.Columns("one")), pgfake.Await('S'), pgfake.Send(failure, pgfake.Ready('I'))},
		"end of TLS": slices.Concat(tls, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(failure, pgfake.Ready('I'))}),
	} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				var socket watchedSocket
				next, dsnEnd := pgfake.Script{pgfake.Greet(), pgfake.Serve()}, ""
				if name == "end of TLS" {
					next, dsnEnd = slices.Concat(tls, next), " sslmode=require"
				}
				server := pgfake.Start(t, script, next)
				db := open(t, server.DSN()+dsnEnd, socket.option)
				db.SetMaxOpenConns(1)
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				s.Close()
				var args []any
				if name == "with an argument" {
					args = []any{0}
				}
				_, err := db.ExecContext(testContext(t), "select 1/$1", args...)
				if serverError(t, err).Code != "22012" || pgnotify.IsDisconnect(err) {
					t.Errorf("%v", err)
				}
				until(t, "the end has arrived", func() bool {
					return s.pc.TransactionStatus() == pgnotify.TransactionUnknown || !active && socket.readable()
				})
				for range 3 {
					queryValue[string](t, db, "select 1")
				}
				if n := server.Sessions(); n != 2 {
					t.Errorf("%d sessions", n)
				}
			})
		}
	}
}

// D15: the same over each way to a real server.
func TestErrorAndThenTheEndEachWay(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		var socket watchedSocket
		r := newRig(socket.option)
		for _, reset := range []bool{false, true} {
			r.fresh(t)
			s := take(t, r.db)
			_, err := s.ExecContext(testContext(t), "select 1/0")
			if serverError(t, err).Code != "22012" || pgnotify.IsDisconnect(err) {
				t.Errorf("%v", err)
			}
			s.Close()
			r.proxy.Cut(reset)
			until(t, "the end has arrived", func() bool {
				return s.pc.TransactionStatus() == pgnotify.TransactionUnknown || !r.active && socket.readable()
			})
			for range 3 {
				mustExec(t, r.db, "select 1")
			}
			if r.more() != 1 {
				t.Errorf("%d more sessions", r.more())
			}
		}
	})
}

// D15: the same without a ReadyForQuery in between.
func TestErrorAndThenTheEndOfTheAnswer(t *testing.T) {
	t.Parallel()
	for _, reset := range []bool{false, true} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("reset=%v, active=%v", reset, active), func(t *testing.T) {
				t.Parallel()
				script := pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(pgfake.Error("ERROR", "22012", "division by zero"))}
				if reset {
					script = append(script, pgfake.Reset())
				}
				server := pgfake.Start(t, script, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
				db := open(t, server.DSN())
				db.SetMaxOpenConns(1)
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				s.Close()
				_, err := db.ExecContext(testContext(t), "select 1/0")
				reason := pgnotify.PeerClosed
				if reset {
					reason = pgnotify.Reset
				}
				wantReason(t, err, reason)
				if e, ok := asError[*pq.Error](err); !reset && (!ok || e.Code != "22012") {
					t.Errorf("the server's error is not in it: %v", err)
				}
				if n := server.Sessions(); n != 1 {
					t.Errorf("%d sessions", n)
				}
				for range 3 {
					queryValue[string](t, db, "select 1")
				}
				if n := server.Sessions(); n != 2 {
					t.Errorf("%d sessions", n)
				}
			})
		}
	}
}

// D16: a long error costs the pool no session.
func TestLongErrorKeepsThePooledSession(t *testing.T) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		r := newRig()
		r.fresh(t)
		pid := queryValue[int](t, r.db, "select pg_backend_pid()")
		for _, size := range []int{40_000, 1_000_000} {
			tx := mustBegin(t, r.db)
			for _, db := range []execer{tx, nil} { // in a transaction, and then outside
				if db == nil {
					if err := tx.Rollback(); err != nil {
						t.Error(err)
					}
					db = r.db
				}
				_, err := db.ExecContext(testContext(t), fmt.Sprintf("do $$ begin raise '%%', repeat('long', %d); end $$", size/4))
				if e := serverError(t, err); e.Code != "P0001" || len(e.Message) < 10_000 || e.Message[:8] != "longlong" {
					t.Errorf("%d bytes: %.100v", size, err)
				}
			}
			if again := queryValue[int](t, r.db, "select pg_backend_pid()"); again != pid {
				t.Errorf("%d bytes: session %d became %d", size, pid, again)
			}
		}
	})
}

// D18, promise 1: what the program gives as the cause of its cancelling, such as
// the error of another connection, is not what became of this one.
func TestCauseOfACancellation(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		admin := open(t, dsn(t))
		ctx, cancel := context.WithCancelCause(testContext(t))
		defer cancel(nil)
		done := make(chan error, 1)
		go func() { done <- execError(s.ExecContext(ctx, "select pg_sleep(60)")) }() // ends with ctx
		until(t, "the statement sleeps", func() bool {
			return queryValue[bool](t, admin,
				"select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = $1", s.pc.PID())
		})
		cancel(fmt.Errorf("another connection: %w", driver.ErrBadConn))
		if err := recv(t, done); !errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%v", err)
		}
		if _, err := s.ExecContext(testContext(t), "select 1"); err != nil {
			t.Errorf("the connection is not usable: %v", err)
		}
	})
}
