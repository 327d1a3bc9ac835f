package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// described answers a Parse of one argument, an integer, and a Describe.
var described = pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"), pgfake.Columns("a"))

// eachHalfway runs a test on a passive and an active session of a scripted server, with
// and without kept statements.
func eachHalfway(t *testing.T, script pgfake.Script, f func(t *testing.T, s *session), options ...func(*pgnotify.Config)) {
	t.Parallel()
	for name, size := range map[string]int{"kept": 0, "not kept": -1} {
		for _, active := range []bool{false, true} {
			t.Run(map[bool]string{false: name + ", passive", true: name + ", active"}[active], func(t *testing.T) {
				t.Parallel()
				server := pgfake.Start(t, script)
				s := take(t, open(t, server.DSN(), append(options, func(c *pgnotify.Config) { c.StatementCacheSize = size })...))
				if active {
					s.pc.Activate()
				}
				f(t, s)
			})
		}
	}
}

// execWrongly executes a statement with more arguments than it has, which lib/pq finds
// out when the server has described it.
func execWrongly(ctx context.Context, s *session) error {
	return s.Raw(func(c any) error {
		_, err := c.(driver.ExecerContext).ExecContext(ctx, "select $1", []driver.NamedValue{{Ordinal: 1, Value: int64(1)}, {Ordinal: 2, Value: int64(2)}})
		return err
	})
}

// A request that ends between preparing and executing is ended on the server too, and
// leaves nothing to the next one.
func TestRequestThatEndsHalfway(t *testing.T) {
	script := pgfake.Script{pgfake.Greet()}
	for range 2 {
		script = append(script, pgfake.Await('H'), described, pgfake.Await('S'),
			pgfake.Send(pgfake.Notice("NOTICE", "00000", "x"), pgfake.Parameter("TimeZone", "Europe/Rome"), pgfake.Ready('I')),
			pgfake.Await('Q'), pgfake.Send(pgfake.Columns("one"), pgfake.Row("1"), pgfake.Complete("SELECT 1"), pgfake.Ready('I')))
	}
	eachHalfway(t, script, func(t *testing.T, s *session) {
		got := messages(s)
		for range 2 {
			if err := execWrongly(testContext(t), s); err == nil || pgnotify.IsDisconnect(err) {
				t.Error(err)
			}
			if status := s.pc.TransactionStatus(); status != pgnotify.TransactionIdle {
				t.Error(status)
			}
			if got := queryValue[string](t, s, "select 1"); got != "1" {
				t.Error(got)
			}
		}
		if got := got.all(); len(got) != 2 {
			t.Errorf("notices %q", got)
		}
	})
}

// Promise 3: if the server does not answer the end of such a request, that takes
// CancelTimeout at most, with or without a context that ends.
func TestRequestThatHangsHalfway(t *testing.T) {
	script := pgfake.Script{pgfake.Greet(), pgfake.Await('H'), described, pgfake.Drain()}
	eachHalfway(t, script, func(t *testing.T, s *session) {
		err := execWrongly(context.Background(), s)
		if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || lost.Reason != pgnotify.CancelTimeout || !lost.Sent || errors.Is(err, driver.ErrBadConn) {
			t.Error(err)
		}
	}, cancelTimeout(100*time.Millisecond))
}

// Promise 1: a session that is lost halfway is no reason to run the statement again.
func TestLostHalfway(t *testing.T) {
	for name, end := range map[string]pgfake.Script{
		"end":   {},
		"reset": {pgfake.Reset()},
		"fatal": {pgfake.Send(pgfake.Error("FATAL", "57P01", "terminating connection"))},
	} {
		t.Run(name, func(t *testing.T) {
			script := append(pgfake.Script{pgfake.Greet(), pgfake.Await('H'), described}, end...)
			eachHalfway(t, script, func(t *testing.T, s *session) {
				_, err := s.ExecContext(testContext(t), "select $1", 1)
				if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || !lost.Sent || errors.Is(err, driver.ErrBadConn) {
					t.Error(err)
				}
			})
		})
	}
}

// A context that ends while the server prepares, which it then does all the same, keeps
// the session. What is not executed by then is not executed, if its statement is kept.
func TestContextThatEndsHalfway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('H'),
		func(c *pgfake.Session) error { cancel(); return described(c) }, pgfake.Serve()})
	s := take(t, open(t, server.DSN()))
	if _, err := s.ExecContext(ctx, "select $1", 1); !errors.Is(err, context.Canceled) || pgnotify.IsDisconnect(err) {
		t.Error(err)
	}
	if got := queryValue[string](t, s, "select 1"); got != "1" {
		t.Error(got)
	}
}

// A wait for a lock while the server prepares is cancelled.
func TestCancelWhileTheServerPrepares(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		table := uniqueName("locked")
		mustExec(t, db, "create table "+table+" (a int)")
		t.Cleanup(func() { mustExec(t, db, "drop table "+table) })
		tx := mustBegin(t, db)
		defer tx.Rollback()
		mustExec(t, tx, "lock table "+table)
		for _, query := range []string{"select from " + table + " where a = $1", "select E'\\n' from " + table + " where a = $1"} {
			ctx, cancel := context.WithCancel(testContext(t))
			done := async(t, func() error { _, err := s.ExecContext(ctx, query, 1); return err })
			untilWaiting(t, db, s.pc.PID(), "relation")
			cancel()
			if err := recv(t, done); !errors.Is(err, context.Canceled) || serverError(t, err).Code != "57014" {
				t.Error(err)
			}
			if n := queryValue[int](t, s, "select $1::int", 1); n != 1 {
				t.Error(n)
			}
		}
	})
}
