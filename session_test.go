package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// until waits for a condition that nothing announces.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for ctx := testContext(t); !condition(); {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestPIDIsTheBackends(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		if got := queryValue[uint32](t, s, "select pg_backend_pid()"); got != s.pc.PID() {
			t.Errorf("PID is %d, the server's process is %d", s.pc.PID(), got)
		}
	})
}

// T7
func TestTransactionStatus(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx := testContext(t)
		expect := func(when string, want pgnotify.TransactionStatus) {
			t.Helper()
			if got := s.pc.TransactionStatus(); got != want {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		expect("at first", pgnotify.TransactionIdle)
		rows, err := s.QueryContext(ctx, "select repeat('x', 100) from generate_series(1, 100000)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		rows.Next()
		expect("in rows", pgnotify.TransactionActive)
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		expect("after rows", pgnotify.TransactionIdle)

		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		expect("in a transaction", pgnotify.TransactionOpen)
		if _, err := tx.ExecContext(ctx, "select 1/0"); err == nil {
			t.Error("no error")
		}
		expect("after an error", pgnotify.TransactionFailed)
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		expect("after rollback", pgnotify.TransactionIdle)

		mustExec(t, s, "begin; select 1")
		expect("after BEGIN as SQL", pgnotify.TransactionOpen)
		mustExec(t, s, "commit")
		expect("after COMMIT as SQL", pgnotify.TransactionIdle)

		queryValue[bool](t, db, "select pg_terminate_backend($1)", s.pc.PID())
		if _, err := s.ExecContext(ctx, "select 1"); err == nil {
			until(t, "the session is lost", func() bool {
				_, err := s.ExecContext(ctx, "select 1")
				return err != nil
			})
		}
		expect("after its end", pgnotify.TransactionUnknown)
	})
}

func TestTransactionStatusTexts(t *testing.T) {
	t.Parallel()
	for status, want := range map[pgnotify.TransactionStatus]string{
		pgnotify.TransactionUnknown: "unknown", pgnotify.TransactionIdle: "idle", pgnotify.TransactionActive: "active",
		pgnotify.TransactionOpen: "in transaction", pgnotify.TransactionFailed: "in failed transaction", 9: "TransactionStatus(9)",
	} {
		if got := status.String(); got != want {
			t.Errorf("%d: %q", int(status), got)
		}
	}
}

func TestParameterStatus(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for _, zone := range []string{"Asia/Tokyo", "UTC", "Europe/Berlin"} {
			mustExec(t, s, "set TimeZone = '"+zone+"'")
			if got, ok := s.pc.ParameterStatus("TimeZone"); got != zone || !ok {
				t.Errorf("TimeZone is %q, %v; want %s", got, ok, zone)
			}
			// lib/pq is told too: it makes times in the session's zone.
			if got := queryValue[time.Time](t, s, "select now()").Location().String(); got != zone {
				t.Errorf("a time is in %s, want %s", got, zone)
			}
		}
		if got := queryValue[string](t, s, "show server_version"); true {
			if reported, _ := s.pc.ParameterStatus("server_version"); reported != got {
				t.Errorf("server_version is %q, reported %q", got, reported)
			}
		}
		if got, ok := s.pc.ParameterStatus("work_mem"); ok || got != "" {
			t.Errorf("work_mem, which is not reported: %q", got)
		}
	})
}

// A reload changes settings of sessions that are idle; the server says so with
// the next statement. The test does not run besides others, whose settings it
// would change.
func TestParameterStatusAfterAReload(t *testing.T) {
	s := server(t)
	if s.Server == nil || !s.Superuser() {
		t.Skip("the server is not ours to reload")
	}
	db := open(t, dsn(t))
	active, passive := take(t, db), take(t, db)
	active.pc.Activate()
	reload := func(statement string) {
		mustExec(t, db, statement)
		mustExec(t, db, "select pg_reload_conf()")
	}
	t.Cleanup(func() { reload("alter system reset intervalstyle") })
	reload("alter system set intervalstyle = 'iso_8601'")
	for name, session := range map[string]*session{"active": active, "passive": passive} {
		until(t, "the "+name+" session hears of the reload", func() bool {
			queryValue[int](t, session, "select 1")
			got, _ := session.pc.ParameterStatus("IntervalStyle")
			return got == "iso_8601"
		})
		if got := queryValue[string](t, session, "show intervalstyle"); got != "iso_8601" {
			t.Errorf("%s: IntervalStyle is %s", name, got)
		}
	}
}

// A server may report a change at any time; an active session hears it.
func TestParameterStatusWhileIdle(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.WaitFor(waiting),
		pgfake.Send(pgfake.Parameter("in_hot_standby", "off")), pgfake.Serve()})
	s := take(t, open(t, fake.DSN()))
	s.pc.Activate()
	close(waiting)
	until(t, "the parameter is reported", func() bool {
		got, ok := s.pc.ParameterStatus("in_hot_standby")
		return ok && got == "off"
	})
	if got := queryValue[string](t, s, "select 1"); got != "1" {
		t.Errorf("got %q", got)
	}
}

// single returns a pool of one session, in each mode.
func single(t *testing.T, f func(t *testing.T, db *sql.DB)) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		db.SetMaxOpenConns(1)
		f(t, db)
	})
}

// The pool opens a session for a call whose context ends meanwhile, and returns it. It
// does not reset it for the next call, which must get the session all the same.
func TestSessionReturnedUnused(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		for _, onConnect := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/OnConnect=%v", m.name, onConnect), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				conn, err := connector(t, m.dsn, func(c *pgnotify.Config) {
					if onConnect {
						c.OnConnect = func(ctx context.Context, conn *pgnotify.Conn) error { return conn.Ping(ctx) }
					}
				}).Connect(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if !conn.(driver.Validator).IsValid() {
					t.Error("the session is not valid")
				}
				if err := conn.(pgnotify.NotificationConn).Listen(ctx, "x"); err != nil {
					t.Error(err)
				}
				pc, err := pgnotify.Unwrap(conn)
				if err != nil {
					t.Fatal(err)
				}
				if err := pc.Unlisten(ctx); err != nil {
					t.Error(err)
				}
				conn.(driver.Validator).IsValid()
				if err := pc.Unlisten(ctx); !errors.Is(err, pgnotify.ErrReleased) {
					t.Errorf("after the second return: %v", err)
				}
			})
		}
	}
}

// Promise 7.
func TestCleanSessionIsReused(t *testing.T) {
	single(t, func(t *testing.T, db *sql.DB) {
		first := take(t, db)
		first.pc.AddNoticeHandler(func(*pgnotify.Notice) {})
		mustExec(t, first, "begin; rollback")
		readAll(t, first, "select 1")
		first.Close()
		second := take(t, db)
		if first.pc.PID() != second.pc.PID() {
			t.Error("the session was not used again")
		}
		if err := first.pc.Listen(testContext(t), "x"); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("the old handle: %v", err)
		}
		if _, err := first.pc.WaitForNotification(testContext(t)); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("the old handle waits: %v", err)
		}
		if got := queryValue[int](t, second, "select 7"); got != 7 {
			t.Errorf("got %d", got)
		}
	})
}

// Promise 7, T5
func TestOpenTransactionIsNotHandedOn(t *testing.T) {
	for name, statements := range map[string][]string{
		"open":   {"begin", "create table leaked_by_promise_7 (a int)"},
		"failed": {"begin", "select 1/0"},
	} {
		t.Run(name, func(t *testing.T) {
			single(t, func(t *testing.T, db *sql.DB) {
				first := take(t, db)
				for _, s := range statements {
					_, _ = first.ExecContext(testContext(t), s)
				}
				first.Close()
				second := take(t, db)
				if first.pc.PID() == second.pc.PID() {
					t.Error("the session was used again")
				}
				if status := second.pc.TransactionStatus(); status != pgnotify.TransactionIdle {
					t.Errorf("the next one is %v", status)
				}
				if queryValue[bool](t, second, "select to_regclass('leaked_by_promise_7') is not null") {
					t.Error("the table is there")
				}
			})
		})
	}
}

// Promise 7
func TestHandlersEndWithTheBorrower(t *testing.T) {
	single(t, func(t *testing.T, db *sql.DB) {
		first := take(t, db)
		var calls atomic.Int32
		remove := first.pc.AddNoticeHandler(func(*pgnotify.Notice) { calls.Add(1) })
		mustExec(t, first, raise("notice", "mine"))
		first.Close()
		second := take(t, db)
		got := messages(second)
		first.pc.AddNoticeHandler(func(*pgnotify.Notice) { calls.Add(1) }) // of an old handle
		mustExec(t, second, raise("notice", "not yours"))
		remove()
		mustExec(t, second, raise("notice", "still mine"))
		if first.pc.PID() != second.pc.PID() || calls.Load() != 1 {
			t.Errorf("sessions %d and %d, %d calls of the old handlers", first.pc.PID(), second.pc.PID(), calls.Load())
		}
		if list := got.all(); len(list) != 2 {
			t.Errorf("the new handler saw %q", list)
		}
	})
}

func TestBusyWithOpenRows(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx := testContext(t)
		rows, err := s.QueryContext(ctx, "select generate_series(1, 100000)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		rows.Next()
		for name, f := range map[string]func() error{
			"exec":     func() error { _, err := s.ExecContext(ctx, "select 1"); return err },
			"query":    func() error { var n int; return s.QueryRowContext(ctx, "select 1").Scan(&n) },
			"args":     func() error { _, err := s.ExecContext(ctx, "select $1::int", 1); return err },
			"prepare":  func() error { _, err := s.PrepareContext(ctx, "select 1"); return err },
			"begin":    func() error { _, err := s.BeginTx(ctx, nil); return err },
			"ping":     func() error { return s.PingContext(ctx) },
			"listen":   func() error { return s.pc.Listen(ctx, "x") },
			"unlisten": func() error { return s.pc.Unlisten(ctx) },
		} {
			if err := f(); !errors.Is(err, pgnotify.ErrBusy) {
				t.Errorf("%s: %v", name, err)
			}
		}
		n := 1
		for rows.Next() {
			n++
		}
		if err := rows.Err(); err != nil || n != 100000 {
			t.Errorf("%d rows, %v", n, err)
		}
		if got := queryValue[int](t, s, "select 3"); got != 3 {
			t.Errorf("got %d", got)
		}
	})
}

// A countingConn counts the bytes written.
type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// Promise 3, K7
func TestNothingIsSentForADeadContext(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				nothingIsSent(t, m, active)
			})
		}
	}
}

func nothingIsSent(t *testing.T, m mode, active bool) {
	var written atomic.Int64
	s := take(t, open(t, m.dsn, func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return countingConn{conn, &written}, err
		}
	}))
	if active {
		s.pc.Activate()
	}
	ctx, cancel := context.WithCancel(testContext(t))
	st, err := s.PrepareContext(ctx, "select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cancel()
	before := written.Load()
	direct := func(f func(c driver.Conn) error) func() error {
		return func() error { return s.Raw(func(dc any) error { return f(dc.(driver.Conn)) }) }
	}
	for name, f := range map[string]func() error{
		"exec":      func() error { _, err := s.ExecContext(ctx, "select 1"); return err },
		"query":     func() error { _, err := s.QueryContext(ctx, "select $1::int", 1); return err },
		"prepare":   func() error { _, err := s.PrepareContext(ctx, "select 1"); return err },
		"begin":     func() error { _, err := s.BeginTx(ctx, nil); return err },
		"ping":      func() error { return s.PingContext(ctx) },
		"statement": func() error { _, err := st.ExecContext(ctx, 1); return err },
		"listen":    func() error { return s.pc.Listen(ctx, "x") },
		"unlisten":  func() error { return s.pc.Unlisten(ctx) },
		"wait":      func() error { _, err := s.pc.WaitForNotification(ctx); return err },
		"raw exec": direct(func(c driver.Conn) error {
			_, err := c.(driver.ExecerContext).ExecContext(ctx, "select 1", nil)
			return err
		}),
		"raw query": direct(func(c driver.Conn) error {
			_, err := c.(driver.QueryerContext).QueryContext(ctx, "select 1", nil)
			return err
		}),
		"raw begin": direct(func(c driver.Conn) error {
			_, err := c.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
			return err
		}),
		"raw ping": direct(func(c driver.Conn) error { return c.(driver.Pinger).Ping(ctx) }),
		"raw prepare": direct(func(c driver.Conn) error {
			_, err := c.(driver.ConnPrepareContext).PrepareContext(ctx, "select 1")
			return err
		}),
	} {
		if err := f(); !errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: %v", name, err)
		}
		if n := written.Load() - before; n != 0 {
			t.Fatalf("%s: %d bytes were sent", name, n)
		}
	}
	if got := queryValue[uint32](t, s, "select pg_backend_pid()"); got != s.pc.PID() || written.Load() == before {
		t.Errorf("session %d became %d", s.pc.PID(), got)
	}
}

// BEGIN as plain SQL and BeginTx do not go together, which costs no session.
func TestBeginWithinATransaction(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		mustExec(t, s, "begin")
		if _, err := s.BeginTx(testContext(t), nil); err == nil || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("BeginTx: %v", err)
		}
		mustExec(t, s, "rollback")
		tx, err := s.BeginTx(testContext(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	})
}
