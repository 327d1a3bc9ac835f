package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

func (c *lateConn) Write(p []byte) (int, error) {
	if len(p) == requestSize || len(p) == requestSizeTLS {
		c.requested.Store(true)
		c.before.pass(c.closed)
	}
	return c.Conn.Write(p)
}

func (c *lateConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.requested.Load() {
		c.after.pass(c.closed)
	}
	return n, err
}

// A hole is a network that swallows everything from a moment on.
type hole struct {
	once   sync.Once
	opened chan struct{}
	deaf   dialer // for new connections
}

func (h *hole) dial(ctx context.Context, network, address string) (net.Conn, error) {
	select {
	case <-h.opened:
		return h.deaf(ctx, network, address)
	default:
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return holeConn{conn, h}, err
}

type holeConn struct {
	net.Conn
	hole *hole
}

func (c holeConn) Write(p []byte) (int, error) {
	select {
	case <-c.hole.opened:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

func (c holeConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		select {
		case <-c.hole.opened:
			if err == nil {
				continue
			}
			return 0, err
		default:
			return n, err
		}
	}
}

// open has everything swallowed from now on.
func (h *hole) open() { h.once.Do(func() { close(h.opened) }) }

// A swallowed request is made on a session whose network swallows everything from
// the moment on when ready returns.
type swallowed struct {
	ready func(t *testing.T, ctx context.Context, db *sql.DB, s *session) (ask func() error)
	quiet bool // it succeeds
}

// onSession makes a request that needs nothing before.
func onSession(f func(ctx context.Context, db *sql.DB, s *session) error) func(*testing.T, context.Context, *sql.DB, *session) func() error {
	return func(_ *testing.T, ctx context.Context, db *sql.DB, s *session) func() error {
		return func() error { return f(ctx, db, s) }
	}
}

// inHoledTx makes a request in a transaction with the same context.
func inHoledTx(f func(ctx context.Context, tx *sql.Tx) error) func(*testing.T, context.Context, *sql.DB, *session) func() error {
	return func(t *testing.T, ctx context.Context, _ *sql.DB, s *session) func() error {
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		return func() error { return f(ctx, tx) }
	}
}

// holedRows makes a request of rows that are open, with more to come.
func holedRows(f func(rows *sql.Rows) error) func(*testing.T, context.Context, *sql.DB, *session) func() error {
	return func(t *testing.T, ctx context.Context, _ *sql.DB, s *session) func() error {
		rows, err := s.QueryContext(ctx, "select repeat('x', 10000) from generate_series(1, 1000000)")
		if err != nil {
			t.Fatal(err)
		}
		if !rows.Next() {
			t.Fatal(rows.Err())
		}
		return func() error { return f(rows) }
	}
}

var swallowedRequests = map[string]swallowed{
	"Exec": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return execError(s.ExecContext(ctx, "select 1"))
	})},
	"Exec with arguments": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return execError(s.ExecContext(ctx, "select $1::int", 1))
	})},
	"Query": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return readRows(s.QueryContext(ctx, "select 'x'"))
	})},
	"QueryRow": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return scan(s.QueryRowContext(ctx, "select 'x'"))
	})},
	"Prepare": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		_, err := s.PrepareContext(ctx, "select 1")
		return err
	})},
	"Ping": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error { return s.PingContext(ctx) })},
	"BeginTx": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		_, err := s.BeginTx(ctx, nil)
		return err
	})},
	"another session": {ready: onSession(func(ctx context.Context, db *sql.DB, _ *session) error { return db.PingContext(ctx) })},
	"Listen": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return s.pc.Listen(ctx, "hole")
	})},
	"Unlisten": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return s.pc.Unlisten(ctx, "hole")
	})},
	"WaitForNotification": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		_, err := s.pc.WaitForNotification(ctx)
		return err
	})},
	"InTx": {ready: onSession(func(ctx context.Context, _ *sql.DB, s *session) error {
		return pgnotify.InTx(ctx, s, nil, func(*sql.Tx) error { return errors.New("not to be run") })
	})},
	"Exec in a transaction": {ready: inHoledTx(func(ctx context.Context, tx *sql.Tx) error {
		return execError(tx.ExecContext(ctx, "select 1"))
	})},
	"Exec in a transaction, and Rollback": {ready: inHoledTx(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "select 1")
		_ = tx.Rollback()
		return err
	})},
	"Commit":     {ready: inHoledTx(func(_ context.Context, tx *sql.Tx) error { return tx.Commit() })},
	"Rollback":   {ready: inHoledTx(func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() })},
	"rows.Next":  {ready: holedRows(func(rows *sql.Rows) error { return readRows(rows, nil) })},
	"rows.Close": {ready: holedRows(func(rows *sql.Rows) error { return rows.Close() }), quiet: true},
	"stmt.Close": {quiet: true, ready: func(t *testing.T, ctx context.Context, _ *sql.DB, s *session) func() error {
		st, err := s.PrepareContext(ctx, "select 1")
		if err != nil {
			t.Fatal(err)
		}
		return st.Close
	}},
	"stmt.Exec": {ready: func(t *testing.T, ctx context.Context, _ *sql.DB, s *session) func() error {
		st, err := s.PrepareContext(ctx, "select 1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return func() error { return execError(st.ExecContext(ctx)) }
	}},
	"COPY": {ready: inHoledTx(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.PrepareContext(ctx, "copy pg_temp.t from stdin")
		return err
	})},
	"end of COPY": {ready: func(t *testing.T, ctx context.Context, _ *sql.DB, s *session) func() error {
		mustExec(t, s, "create temp table swallowed (a text)")
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err := tx.PrepareContext(ctx, "copy swallowed from stdin")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return func() error { return execError(st.ExecContext(ctx)) }
	}},
	"conn.Close": {quiet: true, ready: onSession(func(_ context.Context, _ *sql.DB, s *session) error { return s.Close() })},
	"db.Close":   {quiet: true, ready: onSession(func(_ context.Context, db *sql.DB, _ *session) error { return db.Close() })},
	"conn.Close and db.Close": {quiet: true, ready: onSession(func(_ context.Context, db *sql.DB, s *session) error {
		return errors.Join(s.Close(), db.Close())
	})},
	"driver's Close": {quiet: true, ready: onSession(func(_ context.Context, _ *sql.DB, s *session) error {
		return s.Raw(func(dc any) error { return dc.(driver.Conn).Close() })
	})},
}

// K9: when the network swallows everything, new connections included, each call
// returns by its context or by CancelTimeout.
func TestEverythingEndsInABlackHole(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			for _, fault := range []string{"no way", "deaf server"} {
				t.Run(fmt.Sprintf("%s/active=%v/%s", m.name, active, fault), func(t *testing.T) {
					t.Parallel()
					together(t, swallowedRequests, func(t *testing.T, q swallowed) {
						h := &hole{opened: make(chan struct{}), deaf: cancelFaults[fault].dial(t, nil)}
						q.run(t, m, active, h.dial, h.open)
					})
				})
			}
		}
	}
}

// run makes the request over a network that falls silent when silence is called.
func (q swallowed) run(t *testing.T, m mode, active bool, dial dialer, silence func()) {
	t.Helper()
	const (
		patience = 200 * time.Millisecond
		limit    = 10 * time.Second // a call that hangs does so for longer
	)
	db := open(t, m.dsn, cancelTimeout(patience), func(c *pgnotify.Config) { c.DialContext = dial })
	s := take(t, db)
	server, pid := open(t, dsn(t)), s.pc.PID()
	t.Cleanup(func() { mustExec(t, server, "select pg_terminate_backend($1)", pid) })
	if active {
		s.pc.Activate()
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	ask := q.ready(t, ctx, db, s)
	silence()
	began := time.Now()
	defer time.AfterFunc(patience, cancel).Stop()
	err := recv(t, async(t, ask))
	if took := time.Since(began); took > limit {
		t.Errorf("it took %v: %v", took, err)
	}
	if errors.Is(err, driver.ErrBadConn) || err == nil && !q.quiet {
		t.Errorf("got %v", err)
	}
	if !q.quiet && !errors.Is(err, context.Canceled) && !pgnotify.IsDisconnect(err) {
		t.Errorf("got %v", err)
	}
}
