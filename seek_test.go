package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// Wrappers that show nothing of what they wrap, and pass few methods on.
type (
	pings     struct{ driver.Conn }
	execs     struct{ driver.Conn }
	querying  struct{ driver.Conn }
	prepares  struct{ driver.Conn }
	deafPing  struct{ execs } // its Ping does nothing
	skips     struct{ prepares }
	preparing struct{ driver.Conn } // executes by preparing
	comments  struct{ driver.Conn }
	bounded   struct{ driver.Conn }
	passing   struct{ driver.Conn } // what it can, as tracing libraries do
	forgetful struct{ driver.Conn } // loses the context
	shows     struct{ passing }
)

func (w pings) Ping(ctx context.Context) error { return w.Conn.(driver.Pinger).Ping(ctx) }

func (w execs) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return w.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (w querying) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return w.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (w prepares) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	return w.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
}

func (deafPing) Ping(context.Context) error { return nil }

func (skips) Ping(context.Context) error { return driver.ErrSkip }

func (skips) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func (skips) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return nil, driver.ErrSkip
}

func (w preparing) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	st, err := w.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return st.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (w comments) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c := w.Conn.(driver.ExecerContext)
	if _, err := c.ExecContext(ctx, query+" /* traceparent */", args); err != nil {
		return nil, err
	}
	return c.ExecContext(ctx, "/* traceparent */ "+query, args)
}

func (w bounded) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return w.Conn.(driver.Pinger).Ping(ctx)
}

func (w passing) Ping(ctx context.Context) error {
	if c, ok := w.Conn.(driver.Pinger); ok {
		return c.Ping(ctx)
	}
	return nil
}

func (w passing) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c, ok := w.Conn.(driver.ExecerContext); ok {
		return c.ExecContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

func (w passing) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c, ok := w.Conn.(driver.QueryerContext); ok {
		return c.QueryContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

func (w passing) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c, ok := w.Conn.(driver.ConnPrepareContext); ok {
		return c.PrepareContext(ctx, query)
	}
	return w.Prepare(query)
}

func (w passing) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c, ok := w.Conn.(driver.ConnBeginTx); ok {
		return c.BeginTx(ctx, opts)
	}
	//lint:ignore SA1019 as wrappers do
	return w.Conn.Begin()
}

func (w passing) CheckNamedValue(v *driver.NamedValue) error {
	if c, ok := w.Conn.(driver.NamedValueChecker); ok {
		return c.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (w forgetful) Ping(context.Context) error {
	return w.Conn.(driver.Pinger).Ping(context.Background())
}

func (w forgetful) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return w.Conn.(driver.ExecerContext).ExecContext(context.Background(), query, args)
}

func (w forgetful) QueryContext(_ context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return w.Conn.(driver.QueryerContext).QueryContext(context.Background(), query, args)
}

func (w forgetful) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return w.Prepare(query)
}

func (w shows) Raw() driver.Conn { return w.Conn }

// opaques are those beneath which the session is found.
var opaques = map[string]func(driver.Conn) driver.Conn{
	"Ping":                func(c driver.Conn) driver.Conn { return pings{c} },
	"ExecContext":         func(c driver.Conn) driver.Conn { return execs{c} },
	"QueryContext":        func(c driver.Conn) driver.Conn { return querying{c} },
	"PrepareContext":      func(c driver.Conn) driver.Conn { return prepares{c} },
	"a Ping of its own":   func(c driver.Conn) driver.Conn { return deafPing{execs{c}} },
	"ErrSkip":             func(c driver.Conn) driver.Conn { return skips{prepares{c}} },
	"prepared":            func(c driver.Conn) driver.Conn { return preparing{c} },
	"with a comment":      func(c driver.Conn) driver.Conn { return comments{c} },
	"with a time limit":   func(c driver.Conn) driver.Conn { return bounded{c} },
	"all":                 func(c driver.Conn) driver.Conn { return passing{c} },
	"beneath a known one": func(c driver.Conn) driver.Conn { return shows{passing{c}} },
}

// lastActivity returns when a session last began or ended a request, as the server sees
// it, and its last statement.
func lastActivity(t *testing.T, server *sql.DB, pid uint32) string {
	t.Helper()
	until(t, "the session is idle", func() bool {
		return queryValue[bool](t, server, "select state like 'idle%' from pg_stat_activity where pid = $1", pid)
	})
	return queryValue[string](t, server, "select state_change || ' ' || query from pg_stat_activity where pid = $1", pid)
}

// W1, W6: whatever of a call a wrapper passes on leads to the session, and costs no
// round trip.
func TestHandleIsFoundUnderOpaqueWrappers(t *testing.T) {
	t.Parallel()
	for inner, wrap := range opaques {
		for outer, wrapOuter := range map[string]func(driver.Conn) driver.Conn{
			"alone":             func(c driver.Conn) driver.Conn { return c },
			"beneath one":       opaques["all"],
			"beneath two":       func(c driver.Conn) driver.Conn { return passing{passing{c}} },
			"beneath known one": func(c driver.Conn) driver.Conn { return shows{passing{c}} },
		} {
			t.Run(inner+"/"+outer, func(t *testing.T) {
				t.Parallel()
				server := open(t, dsn(t))
				conn := wrapped(t, func(c driver.Conn) driver.Conn { return wrapOuter(wrap(c)) })
				pid := queryValue[uint32](t, conn, "select pg_backend_pid()")
				before := lastActivity(t, server, pid)
				pc, err := pgnotify.FromConn(conn)
				if err != nil {
					t.Fatal(err)
				}
				if pc.PID() != pid {
					t.Errorf("the handle is of session %d, not %d", pc.PID(), pid)
				}
				if after := lastActivity(t, server, pid); after != before {
					t.Errorf("the server got something: %s, and before %s", after, before)
				}
			})
		}
	}
}

// W6: the session need not be able to take a request.
func TestHandleIsFoundWhateverTheSessionDoes(t *testing.T) {
	t.Parallel()
	for name, wrap := range opaques {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			conn := wrapped(t, wrap)
			find := func(when string) *pgnotify.Conn {
				pc, err := pgnotify.FromConn(conn)
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				return pc
			}
			tx := mustBegin(t, conn)
			if status := find("in a transaction").TransactionStatus(); status != pgnotify.TransactionOpen {
				t.Errorf("the transaction: %v", status)
			}
			rows, err := tx.QueryContext(ctx, "select generate_series(1, 3)")
			if err != nil {
				t.Fatal(err)
			}
			find("with open rows")
			n := 0
			for rows.Next() {
				n++
			}
			if rows.Err() != nil || n != 3 {
				t.Errorf("%d rows, %v", n, rows.Err())
			}
			if _, err := tx.ExecContext(ctx, "select 1/0"); err == nil {
				t.Fatal("no error")
			}
			if status := find("in a failed transaction").TransactionStatus(); status != pgnotify.TransactionFailed {
				t.Errorf("the failed transaction: %v", status)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			pc := find("idle")
			mustExec(t, open(t, dsn(t)), "select pg_terminate_backend($1)", pc.PID())
			<-pc.Disconnected()
			if !pgnotify.IsDisconnect(find("lost").DisconnectErr()) {
				t.Error("the handle does not know of the loss")
			}
		})
	}
}

// W1: beneath a wrapper that loses the context the session is not found, but the server
// is not troubled either, but by the Ping.
func TestForgetfulWrapperIsAnError(t *testing.T) {
	t.Parallel()
	conn := wrapped(t, func(c driver.Conn) driver.Conn { return forgetful{c} })
	pid := queryValue[uint32](t, conn, "select pg_backend_pid()")
	if pc, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("%v, %v", pc, err)
	}
	if last := queryValue[string](t, open(t, dsn(t)), "select query from pg_stat_activity where pid = $1", pid); last != ";" {
		t.Errorf("the server got %q after the Ping", last)
	}
	mustExec(t, conn, "select 1")
}

// counted counts the calls that a foreign driver gets.
type counted struct {
	passing
	pings, others *int
}

func (w counted) Ping(ctx context.Context) error {
	*w.pings++
	return w.passing.Ping(ctx)
}

func (w counted) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	*w.others++
	return w.passing.ExecContext(ctx, query, args)
}

func (w counted) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	*w.others++
	return w.passing.QueryContext(ctx, query, args)
}

func (w counted) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	*w.others++
	return w.passing.PrepareContext(ctx, query)
}

// W1: a foreign driver gets a Ping, even beneath a wrapper, and stays usable.
func TestForeignDriverGetsAPing(t *testing.T) {
	t.Parallel()
	connector, err := pq.NewConnector(dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	var pings, others int
	db := openConnector(t, wrappingConnector{connector, func(c driver.Conn) driver.Conn {
		return passing{counted{passing{c}, &pings, &others}}
	}})
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if pc, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("%v, %v", pc, err)
	}
	if pings != 1 || others != 0 {
		t.Errorf("lib/pq got %d Pings and %d other calls", pings, others)
	}
	if n := queryValue[int](t, conn, "select 42"); n != 42 {
		t.Errorf("got %d", n)
	}
}

// W1
func TestMockIsAnError(t *testing.T) {
	t.Parallel()
	db, mock, err := sqlmock.New(sqlmock.MonitorPingsOption(true))
	if err != nil {
		t.Fatal(err)
	}
	mock.ExpectPing()
	mock.ExpectClose()
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if pc, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("%v, %v", pc, err)
	}
	conn.Close()
	db.Close()
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}
