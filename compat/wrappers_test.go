package compat

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"contrib.go.opencensus.io/integrations/ocsql"
	datadog "github.com/DataDog/dd-trace-go/contrib/database/sql/v2"
	xsam "github.com/XSAM/otelsql"
	"github.com/lib/pq"
	"github.com/luna-duclos/instrumentedsql"
	"github.com/newrelic/go-agent/v3/newrelic"
	"github.com/ngrok/sqlmw"
	"github.com/qustavo/sqlhooks/v2"
	sqldblogger "github.com/simukti/sqldb-logger"
	uptrace "github.com/uptrace/opentelemetry-go-extra/otelsql"
	nhat "go.nhat.io/otelsql"

	"github.com/pgnotify/pgnotify"
)

// wrappers are the wrappers in common use, each with all that it can log or trace
// without a service. Those that log errors tell the errorLog.
var wrappers = map[string]func(t *testing.T, c driver.Connector, l errorLog) *sql.DB{
	"XSAM/otelsql":    func(_ *testing.T, c driver.Connector, _ errorLog) *sql.DB { return xsam.OpenDB(c) },
	"uptrace/otelsql": func(_ *testing.T, c driver.Connector, _ errorLog) *sql.DB { return uptrace.OpenDB(c) },
	"nhat/otelsql": func(t *testing.T, c driver.Connector, _ errorLog) *sql.DB {
		return openDriver(t, nhat.Wrap(fixed{c}, nhat.TraceAll()))
	},
	"dd-trace-go": func(_ *testing.T, c driver.Connector, _ errorLog) *sql.DB { return datadog.OpenDB(c) },
	"sqlmw": func(t *testing.T, c driver.Connector, l errorLog) *sql.DB {
		return openDriver(t, sqlmw.Driver(fixed{c}, l))
	},
	"sqldb-logger": func(_ *testing.T, c driver.Connector, l errorLog) *sql.DB {
		return sqldblogger.OpenDriver("", fixed{c}, l)
	},
	"instrumentedsql": func(t *testing.T, c driver.Connector, l errorLog) *sql.DB {
		return openDriver(t, instrumentedsql.WrapDriver(fixed{c}, instrumentedsql.WithLogger(instrumentedsql.LoggerFunc(
			func(_ context.Context, msg string, keyvals ...any) {
				for i := 0; i+1 < len(keyvals); i += 2 {
					if err, ok := keyvals[i+1].(error); ok && err != nil {
						l.error(msg, err)
					}
				}
			}))))
	},
	"sqlhooks": func(t *testing.T, c driver.Connector, l errorLog) *sql.DB {
		return openDriver(t, sqlhooks.Wrap(fixed{c}, l))
	},
	"ocsql": func(_ *testing.T, c driver.Connector, _ errorLog) *sql.DB {
		return sql.OpenDB(ocsql.WrapConnector(c, ocsql.WithAllTraceOptions()))
	},
	"New Relic": func(_ *testing.T, c driver.Connector, _ errorLog) *sql.DB {
		return sql.OpenDB(newrelic.InstrumentSQLConnector(c, newrelic.SQLDriverSegmentBuilder{}))
	},
}

// A fixed driver has one connector.
type fixed struct{ driver.Connector }

func (d fixed) Open(string) (driver.Conn, error) { return d.Connect(context.Background()) }

func (d fixed) OpenConnector(string) (driver.Connector, error) { return d.Connector, nil }

var registered atomic.Int64

func openDriver(t *testing.T, d driver.Driver) *sql.DB {
	t.Helper()
	name := fmt.Sprintf("wrapped-%d", registered.Add(1))
	sql.Register(name, d)
	db, err := sql.Open(name, "")
	check(t, "open", err)
	return db
}

// A errorLog listens to wrappers.
type errorLog struct {
	sqlmw.NullInterceptor
	error func(what string, err any)
}

// strict takes all errors for failures.
func strict(t *testing.T) errorLog {
	return errorLog{error: func(what string, err any) {
		if err != driver.ErrSkip && err != driver.ErrSkip.Error() {
			t.Errorf("%s: the wrapper tells of an error: %v", what, err)
		}
	}}
}

// deaf is for tests with errors of their own.
var deaf = errorLog{error: func(string, any) {}}

// Log implements sqldblogger.Logger.
func (l errorLog) Log(_ context.Context, level sqldblogger.Level, msg string, data map[string]any) {
	if level == sqldblogger.LevelError {
		l.error(msg, data["error"])
	}
}

func (errorLog) Before(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	return ctx, nil
}

func (errorLog) After(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	return ctx, nil
}

// OnError implements sqlhooks.OnErrorer.
func (l errorLog) OnError(_ context.Context, err error, query string, _ ...any) error {
	l.error(query, err)
	return err
}

func (l errorLog) ConnPing(ctx context.Context, c driver.Pinger) error {
	err := c.Ping(ctx)
	if err != nil {
		l.error("ping", err)
	}
	return err
}

// inside makes a connector of what a wrapper shows only as a pool: its connections are
// taken from the pool and never given back.
type inside struct {
	db   *sql.DB
	mu   sync.Mutex
	held []*sql.Conn // so that they are not given back
}

func (c *inside) Connect(ctx context.Context) (inner driver.Conn, err error) {
	conn, err := c.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.held = append(c.held, conn)
	c.mu.Unlock()
	err = conn.Raw(func(driverConn any) error {
		inner = driverConn.(driver.Conn)
		return nil
	})
	return inner, err
}

func (c *inside) Driver() driver.Driver { return c.db.Driver() }

func ownConnector(t *testing.T) driver.Connector {
	t.Helper()
	config, err := pgnotify.ParseConfig(server(t).DSN())
	check(t, "config", err)
	c, err := pgnotify.NewConnector(config)
	check(t, "connector", err)
	return c
}

// wrappedDB returns a pool of one session, with a wrapper around the connector.
func wrappedDB(t *testing.T, wrapper string, c driver.Connector, l errorLog) *sql.DB {
	t.Helper()
	db := wrappers[wrapper](t, c, l)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// checkHandle checks that FromConn finds the session of the pool.
func checkHandle(t *testing.T, db *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := db.Conn(ctx)
	check(t, "conn", err)
	defer conn.Close()
	var pid uint32
	check(t, "pid", conn.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&pid))
	pc, err := pgnotify.FromConn(conn)
	check(t, "FromConn", err)
	if pc.PID() != pid {
		t.Errorf("the handle is of session %d, not %d", pc.PID(), pid)
	}
	check(t, "listen", pc.Listen(ctx, "wrapped"))
	_, err = conn.ExecContext(ctx, "notify wrapped, 'hello'")
	check(t, "notify", err)
	n, err := pc.WaitForNotification(ctx)
	check(t, "notification", err)
	if n.Payload != "hello" {
		t.Errorf("got %v", n)
	}
}

// W6: the session is found beneath each of them, and none of them tells of an error.
func TestHandleIsFoundUnderWrappers(t *testing.T) {
	t.Parallel()
	for name := range wrappers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkHandle(t, wrappedDB(t, name, ownConnector(t), strict(t)))
		})
	}
}

// W1, W6: and beneath two of them.
func TestHandleIsFoundUnderTwoWrappers(t *testing.T) {
	t.Parallel()
	for outer := range wrappers {
		for inner := range wrappers {
			t.Run(outer+" over "+inner, func(t *testing.T) {
				t.Parallel()
				inside := &inside{db: wrappedDB(t, inner, ownConnector(t), strict(t))}
				checkHandle(t, wrappedDB(t, outer, inside, strict(t)))
			})
		}
	}
}

// W1: beneath them, another driver's connection is an error, and stays usable.
func TestForeignConnectionUnderWrappers(t *testing.T) {
	t.Parallel()
	for name := range wrappers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := pq.NewConnector(server(t).DSN())
			check(t, "connector", err)
			conn, err := wrappedDB(t, name, c, deaf).Conn(t.Context())
			check(t, "conn", err)
			defer conn.Close()
			if pc, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
				t.Errorf("%v, %v", pc, err)
			}
			_, err = conn.ExecContext(t.Context(), "select 1")
			check(t, "exec", err)
		})
	}
}

// W5: a session that is lost in a transaction is replaced. database/sql does not repeat a
// Ping, so it is not among the requests.
func TestSessionLostUnderWrappers(t *testing.T) {
	t.Parallel()
	direct := open(t, "postgres", server(t).DSN())
	for name := range wrappers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, db := t.Context(), wrappedDB(t, name, ownConnector(t), deaf)
			tx, err := db.BeginTx(ctx, nil)
			check(t, "begin", err)
			var pid int
			check(t, "pid", tx.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&pid))
			_, err = direct.ExecContext(ctx, "select pg_terminate_backend($1)", pid)
			check(t, "terminate", err)
			for gone := false; !gone; {
				check(t, "activity", direct.QueryRowContext(ctx,
					"select not exists (select from pg_stat_activity where pid = $1)", pid).Scan(&gone))
			}
			if err := tx.Rollback(); err == nil {
				t.Error("a lost transaction was rolled back")
			}
			for i := range 20 {
				if _, err := db.ExecContext(ctx, "select 1"); err != nil {
					t.Errorf("request %d: %v", i+1, err)
				}
			}
		})
	}
}

// W5: nothing that one borrower leaves reaches the next one.
func TestNothingLeaksUnderWrappers(t *testing.T) {
	t.Parallel()
	for name := range wrappers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, db := t.Context(), wrappedDB(t, name, ownConnector(t), deaf)
			leave := func(f func(*sql.Conn, *pgnotify.Conn)) {
				conn, err := db.Conn(ctx)
				check(t, "conn", err)
				pc, err := pgnotify.FromConn(conn)
				check(t, "FromConn", err)
				f(conn, pc)
				check(t, "close", conn.Close())
			}
			leave(func(_ *sql.Conn, pc *pgnotify.Conn) { check(t, "listen", pc.Listen(ctx, "left")) })
			var channels int
			check(t, "channels", db.QueryRowContext(ctx, "select count(*) from pg_listening_channels()").Scan(&channels))
			if channels != 0 {
				t.Errorf("%d channels are listened to", channels)
			}
			leave(func(conn *sql.Conn, _ *pgnotify.Conn) {
				_, err := conn.ExecContext(ctx, "begin")
				check(t, "begin", err)
			})
			tx, err := db.BeginTx(ctx, nil)
			check(t, "begin", err)
			check(t, "commit", tx.Commit())
			leave(func(_ *sql.Conn, pc *pgnotify.Conn) {
				if status := pc.TransactionStatus(); status != pgnotify.TransactionIdle {
					t.Errorf("the next borrower is %v", status)
				}
			})
		})
	}
}
