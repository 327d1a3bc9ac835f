package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
)

// losses are ways in which a session ends while nobody looks; of the last one
// pgnotify knows.
var losses = map[string]func(t *testing.T, r *rig, s *session){
	"terminated": func(t *testing.T, r *rig, s *session) {
		mustExec(t, r.server, "select pg_terminate_backend($1)", s.pc.PID())
		until(t, "the backend has ended", func() bool {
			return queryValue[int](t, r.server, "select count(*) from pg_stat_activity where pid = $1", s.pc.PID()) == 0
		})
	},
	"end":   func(_ *testing.T, r *rig, _ *session) { r.proxy.Cut(false) },
	"reset": func(_ *testing.T, r *rig, _ *session) { r.proxy.Cut(true) },
	"known": func(t *testing.T, r *rig, s *session) {
		r.proxy.Break(faultproxy.Fault{})
		if _, err := s.ExecContext(testContext(t), "select 1"); !pgnotify.IsDisconnect(err) {
			t.Fatal(err)
		}
	},
}

// raw runs f on what sql.Conn.Raw passes.
func raw[T any](s *session, f func(c T) error) error {
	return s.Raw(func(dc any) error { return f(dc.(T)) })
}

// onLost are what a program may do with a connection that is lost.
var onLost = map[string]func(ctx context.Context, s *session) error{
	"exec":  func(ctx context.Context, s *session) error { return execError(s.ExecContext(ctx, "select 1")) },
	"args":  func(ctx context.Context, s *session) error { return execError(s.ExecContext(ctx, "select $1::int", 1)) },
	"query": func(ctx context.Context, s *session) error { return readRows(s.QueryContext(ctx, "select 1")) },
	"query row": func(ctx context.Context, s *session) error {
		return scan(s.QueryRowContext(ctx, "select $1::text", "x"))
	},
	"prepare": func(ctx context.Context, s *session) error { _, err := s.PrepareContext(ctx, "select 1"); return err },
	"begin":   func(ctx context.Context, s *session) error { _, err := s.BeginTx(ctx, nil); return err },
	"ping":    func(ctx context.Context, s *session) error { return s.PingContext(ctx) },
	"raw exec": func(ctx context.Context, s *session) error {
		return raw(s, func(c driver.ExecerContext) error {
			_, err := c.ExecContext(ctx, "select 1", nil)
			return err
		})
	},
	"raw query": func(ctx context.Context, s *session) error {
		return raw(s, func(c driver.QueryerContext) error {
			_, err := c.QueryContext(ctx, "select 1", nil)
			return err
		})
	},
	"raw prepare": func(ctx context.Context, s *session) error {
		return raw(s, func(c driver.ConnPrepareContext) error {
			_, err := c.PrepareContext(ctx, "select 1")
			return err
		})
	},
	"raw begin": func(ctx context.Context, s *session) error {
		return raw(s, func(c driver.ConnBeginTx) error {
			_, err := c.BeginTx(ctx, driver.TxOptions{})
			return err
		})
	},
	"raw ping": func(ctx context.Context, s *session) error {
		return raw(s, func(c driver.Pinger) error { return c.Ping(ctx) })
	},
	"raw listen": func(ctx context.Context, s *session) error {
		return raw(s, func(c pgnotify.NotificationConn) error { return c.Listen(ctx, "x") })
	},
	"raw unlisten": func(ctx context.Context, s *session) error {
		return raw(s, func(c pgnotify.NotificationConn) error { return c.Unlisten(ctx) })
	},
	"raw, by the handle": func(ctx context.Context, s *session) error {
		return s.Raw(func(any) error {
			_, err := s.pc.ExecContext(ctx, "select 1", nil)
			return err
		})
	},
	"raw listen, by the handle": func(ctx context.Context, s *session) error {
		return s.Raw(func(any) error { return s.pc.Listen(ctx, "x") })
	},
	"listen":   func(ctx context.Context, s *session) error { return s.pc.Listen(ctx, "x") },
	"unlisten": func(ctx context.Context, s *session) error { return s.pc.Unlisten(ctx, "x") },
}

// returns runs f and fails when it does not come back, as it does where
// database/sql waits for a transaction to end that nobody else can end. Then
// free ends it.
func returns(t *testing.T, what string, f func() error, free func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }() // ends with f, or after free
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		t.Errorf("%s: blocked for ever", what)
		_ = free()
		return recv(t, done)
	}
}

// useLost does something with a lost connection on which a transaction is open.
func useLost(t *testing.T, s *session, tx *sql.Tx, name string) {
	t.Helper()
	use := func() error { return onLost[name](testContext(t), s) }
	if err := returns(t, name, use, tx.Rollback); err == nil || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("%s: %v", name, err)
	}
}

// endLost ends the transaction and gives the connection back.
func endLost(t *testing.T, s *session, tx *sql.Tx, end func(*sql.Tx) error) {
	t.Helper()
	nobody := func() error { return nil }
	if err := returns(t, "the end of the transaction", func() error { return end(tx) }, nobody); err == nil {
		t.Error("the transaction ended well")
	}
	if err := returns(t, "closing the connection", s.Close, nobody); err != nil {
		t.Errorf("closing the connection: %v", err)
	}
}

// D18: golang/go#81606. ErrBadConn would have database/sql close the connection,
// and wait for its transaction, which the caller cannot end any more.
func TestLostInATransaction(t *testing.T) {
	for how, lose := range losses {
		t.Run(how, func(t *testing.T) {
			eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
				ends := []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit}
				r := newRig()
				for name := range onLost {
					r.fresh(t)
					s := take(t, r.db)
					tx := mustBegin(t, s)
					lose(t, r, s)
					useLost(t, s, tx, name)
					useLost(t, s, tx, "raw exec") // now the loss is known
					endLost(t, s, tx, ends[len(name)%2])
					if t.Failed() {
						break // each failure may have waited
					}
				}
				r.fresh(t)
			})
		})
	}
}

// D18: the same where the server has no transaction any more, and database/sql
// still has.
func TestLostAfterCommitAsPlainSQL(t *testing.T) {
	for how, lose := range losses {
		t.Run(how, func(t *testing.T) {
			eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
				r := newRig()
				r.fresh(t)
				s := take(t, r.db)
				tx := mustBegin(t, s)
				mustExec(t, tx, "commit")
				lose(t, r, s)
				for name := range onLost {
					if useLost(t, s, tx, name); t.Failed() {
						break
					}
				}
				endLost(t, s, tx, (*sql.Tx).Rollback)
				r.fresh(t)
			})
		})
	}
}

// D18: a prepared statement of a connection, and one of a transaction.
func TestLostStatementInATransaction(t *testing.T) {
	for how, lose := range losses {
		t.Run(how, func(t *testing.T) {
			eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
				ctx, r := testContext(t), newRig()
				r.fresh(t)
				s := take(t, r.db)
				ofConn, err := s.PrepareContext(ctx, "select 1")
				if err != nil {
					t.Fatal(err)
				}
				tx := mustBegin(t, s)
				ofTx, err := tx.PrepareContext(ctx, "select 2")
				if err != nil {
					t.Fatal(err)
				}
				lose(t, r, s)
				for _, st := range []*sql.Stmt{ofTx, ofConn, tx.StmtContext(ctx, ofConn)} {
					use := func() error { return execError(st.ExecContext(ctx)) }
					if err := returns(t, "exec", use, tx.Rollback); err == nil || errors.Is(err, driver.ErrBadConn) {
						t.Errorf("exec: %v", err)
					}
				}
				if err := returns(t, "closing the statement", ofTx.Close, tx.Rollback); err != nil {
					t.Errorf("closing the statement: %v", err)
				}
				endLost(t, s, tx, (*sql.Tx).Rollback)
				if err := ofConn.Close(); err != nil {
					t.Errorf("closing the statement: %v", err)
				}
				r.fresh(t)
			})
		})
	}
}
