package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A traced connection forwards what tells about the pool, as tracing libraries
// do.
type traced struct{ driver.Conn }

func (w traced) IsValid() bool { return w.Conn.(driver.Validator).IsValid() }

func (w traced) ResetSession(ctx context.Context) error {
	return w.Conn.(driver.SessionResetter).ResetSession(ctx)
}

// Wrappers with the methods that lead to what they wrap.
type (
	rawConn       struct{ traced }
	rawAny        struct{ traced }
	wrappedConn   struct{ traced }
	wrappedAny    struct{ traced }
	unwrapConn    struct{ traced }
	unwrapAny     struct{ traced }
	opaque        struct{ driver.Conn }
	cyclic        struct{ driver.Conn }
	panicking     struct{ driver.Conn }
	pointerToConn struct{ inner driver.Conn } // panics where the pointer is nil
)

func (w rawConn) Raw() driver.Conn             { return w.Conn }
func (w rawAny) Raw() any                      { return w.Conn }
func (w wrappedConn) WrappedConn() driver.Conn { return w.Conn }
func (w wrappedAny) WrappedConn() any          { return w.Conn }
func (w unwrapConn) Unwrap() driver.Conn       { return w.Conn }
func (w unwrapAny) Unwrap() any                { return w.Conn }
func (w *cyclic) Raw() driver.Conn             { return w }
func (panicking) Unwrap() any                  { panic("no") }
func (w *pointerToConn) Raw() any              { return w.inner }

var wrappers = map[string]func(driver.Conn) driver.Conn{
	"Raw() driver.Conn":         func(c driver.Conn) driver.Conn { return rawConn{traced{c}} },
	"Raw() any":                 func(c driver.Conn) driver.Conn { return rawAny{traced{c}} },
	"WrappedConn() driver.Conn": func(c driver.Conn) driver.Conn { return wrappedConn{traced{c}} },
	"WrappedConn() any":         func(c driver.Conn) driver.Conn { return wrappedAny{traced{c}} },
	"Unwrap() driver.Conn":      func(c driver.Conn) driver.Conn { return unwrapConn{traced{c}} },
	"Unwrap() any":              func(c driver.Conn) driver.Conn { return unwrapAny{traced{c}} },
}

// A wrappingConnector wraps the connections of another.
type wrappingConnector struct {
	driver.Connector
	wrap func(driver.Conn) driver.Conn
}

func (c wrappingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.wrap(conn), nil
}

// wrappedDB returns a pool of one session at a time, which is wrapped.
func wrappedDB(t *testing.T, wrap func(driver.Conn) driver.Conn, options ...func(*pgnotify.Config)) *sql.DB {
	t.Helper()
	db := openConnector(t, wrappingConnector{connector(t, dsn(t), options...), wrap})
	db.SetMaxOpenConns(1)
	return db
}

// wrapped returns a connection of a pool whose sessions are wrapped.
func wrapped(t *testing.T, wrap func(driver.Conn) driver.Conn) *sql.Conn {
	t.Helper()
	conn, err := wrappedDB(t, wrap).Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// W1
func TestHandleIsFoundUnderWrappers(t *testing.T) {
	t.Parallel()
	for outer, wrapOuter := range wrappers {
		for inner, wrapInner := range wrappers {
			t.Run(outer+" over "+inner, func(t *testing.T) {
				t.Parallel()
				conn := wrapped(t, func(c driver.Conn) driver.Conn { return wrapOuter(wrapInner(c)) })
				pc, err := pgnotify.FromConn(conn)
				if err != nil {
					t.Fatal(err)
				}
				if got := queryValue[uint32](t, conn, "select pg_backend_pid()"); got != pc.PID() {
					t.Errorf("the handle is of session %d, not %d", pc.PID(), got)
				}
				conn.Close()
				if err := pc.Listen(testContext(t), "x"); !errors.Is(err, pgnotify.ErrReleased) && !errors.Is(err, pgnotify.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		}
	}
}

// A resetOnly wrapper hides IsValid, with which database/sql returns a session.
type resetOnly struct{ driver.Conn }

func (w resetOnly) Raw() driver.Conn { return w.Conn }

func (w resetOnly) ResetSession(ctx context.Context) error {
	return w.Conn.(driver.SessionResetter).ResetSession(ctx)
}

// W1, promise 7
func TestNothingLeaksUnderAWrapperThatHidesIsValid(t *testing.T) {
	t.Parallel()
	db := wrappedDB(t, func(c driver.Conn) driver.Conn { return resetOnly{c} })
	first := take(t, db)
	calls := messages(first)
	first.Close()
	second := take(t, db)
	mustExec(t, second, raise("notice", "not yours"))
	if list := calls.all(); len(list) > 0 {
		t.Errorf("a handler of the last borrower was called with %q", list)
	}
	if err := first.pc.Listen(testContext(t), "x"); !errors.Is(err, pgnotify.ErrReleased) {
		t.Errorf("the old handle: %v", err)
	}
	if first.pc.PID() != second.pc.PID() {
		t.Error("a clean session was not used again")
	}
	mustExec(t, second, "begin")
	second.Close()
	third := take(t, db)
	if third.pc.TransactionStatus() != pgnotify.TransactionIdle || second.pc.PID() == third.pc.PID() {
		t.Errorf("an open transaction was handed on: %v", third.pc.TransactionStatus())
	}
}

// W1
func TestUnknownWrapperIsAnError(t *testing.T) {
	t.Parallel()
	conn := wrapped(t, func(c driver.Conn) driver.Conn { return opaque{c} })
	if pc, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("%v, %v", pc, err)
	}
}

// W1
func TestForeignConnectionsAreErrors(t *testing.T) {
	t.Parallel()
	var nilConn *pgnotify.Conn
	var nilWrapper *pointerToConn
	for name, conn := range map[string]any{
		"nil":             nil,
		"a number":        42,
		"a nil *Conn":     nilConn,
		"a nil wrapper":   nilWrapper,
		"an empty one":    rawConn{},
		"any of nil":      rawAny{},
		"a nil in it":     rawConn{traced{nilConn}},
		"a cycle":         &cyclic{},
		"a panic":         panicking{},
		"a panic in it":   unwrapAny{traced{panicking{}}},
		"a foreign one":   opaque{},
		"foreign, within": wrappedConn{traced{opaque{}}},
	} {
		if pc, err := pgnotify.Unwrap(conn); pc != nil || !errors.Is(err, pgnotify.ErrNotPgnotify) {
			t.Errorf("%s: %v, %v", name, pc, err)
		}
	}
	if _, err := pgnotify.FromConn(nil); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("FromConn(nil): %v", err)
	}
	db, err := sql.Open("postgres", dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pgnotify.FromConn(conn); !errors.Is(err, pgnotify.ErrNotPgnotify) {
		t.Errorf("lib/pq: %v", err)
	}
	conn.Close()
	if _, err := pgnotify.FromConn(conn); !errors.Is(err, sql.ErrConnDone) {
		t.Errorf("closed: %v", err)
	}
}
