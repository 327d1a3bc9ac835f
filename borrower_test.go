package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// hiding wraps sessions as some tracing libraries do: database/sql cannot tell them that
// they are returned, or about to be used again.
func hiding(c driver.Conn) driver.Conn { return passing{c} }

// requestsOfPool are what a program may ask of a pool.
var requestsOfPool = map[string]func(ctx context.Context, db *sql.DB) error{
	"exec": func(ctx context.Context, db *sql.DB) error { return execError(db.ExecContext(ctx, "select 1")) },
	"args": func(ctx context.Context, db *sql.DB) error {
		return execError(db.ExecContext(ctx, "select $1::int", 1))
	},
	"query": func(ctx context.Context, db *sql.DB) error { return readRows(db.QueryContext(ctx, "select 1")) },
	"ping":  func(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) },
	"begin": func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "select 1"); err != nil {
			return err
		}
		return tx.Commit()
	},
	"prepare": func(ctx context.Context, db *sql.DB) error {
		st, err := db.PrepareContext(ctx, "select 1")
		if err != nil {
			return err
		}
		defer st.Close()
		return execError(st.ExecContext(ctx))
	},
}

// terminateFully ends a session from outside, and returns once it is gone.
func terminateFully(t *testing.T, server *sql.DB, pid uint32) {
	t.Helper()
	terminate(t, server, pid)
	until(t, "the backend has ended", func() bool {
		return queryValue[int](t, server, "select count(*) from pg_stat_activity where pid = $1", pid) == 0
	})
}

// lostIn are transactions in which a session is lost.
var lostIn = map[string]func(t *testing.T, db *sql.DB, lose func(queryer)){
	"rolled back": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		tx := mustBegin(t, db)
		lose(tx)
		endLostTx(t, tx.Rollback)
	},
	"committed": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		tx := mustBegin(t, db)
		lose(tx)
		endLostTx(t, tx.Commit)
	},
	"after a statement": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		tx := mustBegin(t, db)
		lose(tx)
		_, err := tx.ExecContext(testContext(t), "select 1")
		if !pgnotify.IsDisconnect(err) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("in the transaction: %v", err)
		}
		endLostTx(t, tx.Rollback)
	},
	"context ended": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		ctx, cancel := context.WithCancel(testContext(t))
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		lose(tx)
		cancel()
		_ = tx.Rollback() // or database/sql has been quicker
	},
	"of a connection": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		conn, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tx := mustBegin(t, conn)
		lose(tx)
		endLostTx(t, tx.Rollback)
	},
	"plain SQL": func(t *testing.T, db *sql.DB, lose func(queryer)) {
		conn, err := db.Conn(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mustExec(t, conn, "begin")
		lose(conn)
	},
}

func endLostTx(t *testing.T, end func() error) {
	t.Helper()
	if err := end(); !pgnotify.IsDisconnect(err) || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("the end of the transaction: %v", err)
	}
}

// W5: a session that was lost in a transaction is replaced, also where database/sql can
// learn of the loss only from the error of a request.
func TestSessionLostInATransactionIsReplaced(t *testing.T) {
	t.Parallel()
	server := open(t, dsn(t))
	for how, transaction := range lostIn {
		for first, request := range requestsOfPool {
			t.Run(how+"/"+first, func(t *testing.T) {
				t.Parallel()
				db := wrappedDB(t, hiding)
				transaction(t, db, func(q queryer) {
					terminateFully(t, server, queryValue[uint32](t, q, "select pg_backend_pid()"))
				})
				for i := range 20 {
					err := request(testContext(t), db)
					if i == 0 && first == "ping" && errors.Is(err, driver.ErrBadConn) {
						continue // database/sql replaces the session, but does not repeat a Ping
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// leftovers are what a borrower may leave in a session.
var leftovers = map[string]func(t *testing.T, conn *sql.Conn){
	"LISTEN by the handle": func(t *testing.T, conn *sql.Conn) {
		if err := handle(t, conn).Listen(testContext(t), uniqueName("left")); err != nil {
			t.Fatal(err)
		}
	},
	"LISTEN": func(t *testing.T, conn *sql.Conn) { mustExec(t, conn, "listen "+uniqueName("left")) },
	"BEGIN":  func(t *testing.T, conn *sql.Conn) { mustExec(t, conn, "begin") },
	"failed transaction": func(t *testing.T, conn *sql.Conn) {
		mustExec(t, conn, "begin")
		if _, err := conn.ExecContext(testContext(t), "select 1/0"); err == nil {
			t.Fatal("no error")
		}
	},
	"BEGIN, and a transaction that was refused": func(t *testing.T, conn *sql.Conn) {
		mustExec(t, conn, "begin")
		if _, err := conn.BeginTx(testContext(t), nil); err == nil || errors.Is(err, driver.ErrBadConn) {
			t.Fatalf("a transaction in a transaction: %v", err)
		}
	},
	"nothing": func(*testing.T, *sql.Conn) {},
}

func handle(t *testing.T, conn *sql.Conn) *pgnotify.Conn {
	t.Helper()
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// W5, promise 7: a request of the pool finds nothing of what was left in a session,
// although database/sql cannot ask the driver.
func TestNothingLeaksUnderAWrapperThatHidesAll(t *testing.T) {
	t.Parallel()
	for what, leave := range leftovers {
		for name, request := range requestsOfPool {
			t.Run(what+"/"+name, func(t *testing.T) {
				t.Parallel()
				db := wrappedDB(t, hiding)
				first, err := db.Conn(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				leave(t, first)
				pc := handle(t, first)
				calls := messages(&session{first, pc})
				first.Close()
				if err := request(testContext(t), db); err != nil && (name != "ping" || !errors.Is(err, driver.ErrBadConn)) {
					t.Fatal(err)
				}
				if n := queryValue[int](t, db, "select count(*) from pg_listening_channels()"); n != 0 {
					t.Errorf("%d channels are listened to", n)
				}
				mustExec(t, db, raise("notice", "not yours"))
				if list := calls.all(); len(list) > 0 {
					t.Errorf("a handler of the last borrower was called with %q", list)
				}
				if err := pc.Listen(testContext(t), "x"); !errors.Is(err, pgnotify.ErrReleased) && !errors.Is(err, pgnotify.ErrClosed) {
					t.Errorf("the old handle: %v", err)
				}
				second, err := db.Conn(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				defer second.Close()
				now := handle(t, second)
				if now.TransactionStatus() != pgnotify.TransactionIdle {
					t.Errorf("the session is %v", now.TransactionStatus())
				}
				if same := now.PID() == pc.PID(); same != (what == "nothing") {
					t.Errorf("the same session: %v", same)
				}
			})
		}
	}
}

// W5, promise 7: so does a statement that was prepared on the pool before.
func TestNothingLeaksToAPreparedStatement(t *testing.T) {
	t.Parallel()
	for what, leave := range leftovers {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, db := testContext(t), wrappedDB(t, hiding)
			st, err := db.PrepareContext(ctx, "select count(*), pg_backend_pid() from pg_listening_channels()")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			first := take(t, db)
			tx := mustBegin(t, first)
			if _, err := tx.StmtContext(ctx, st).ExecContext(ctx); err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			leave(t, first.Conn)
			first.Close()
			var channels int
			var pid uint32
			if err := st.QueryRowContext(ctx).Scan(&channels, &pid); err != nil {
				t.Fatal(err)
			}
			if channels != 0 || (pid == first.pc.PID()) != (what == "nothing") {
				t.Errorf("%d channels, session %d after %d", channels, pid, first.pc.PID())
			}
		})
	}
}

// W5, promise 7: a new *sql.Conn shows in FromConn.
func TestFromConnFindsANewBorrower(t *testing.T) {
	t.Parallel()
	ctx, db := testContext(t), wrappedDB(t, hiding)
	first := take(t, db)
	calls := messages(first)
	if err := first.pc.Listen(ctx, uniqueName("left")); err != nil {
		t.Fatal(err)
	}
	if pc := handle(t, first.Conn); pc.Listen(ctx, "more") != nil || first.pc.Listen(ctx, "more") != nil {
		t.Error("another handle of the same borrower has changed something")
	}
	first.Close()
	second := take(t, db)
	if n := queryValue[int](t, second, "select count(*) from pg_listening_channels()"); n != 0 {
		t.Errorf("%d channels are listened to", n)
	}
	mustExec(t, second, raise("notice", "not yours"))
	if list := calls.all(); len(list) > 0 {
		t.Errorf("a handler of the last borrower was called with %q", list)
	}
	if err := first.pc.Listen(ctx, "x"); !errors.Is(err, pgnotify.ErrReleased) {
		t.Errorf("the old handle: %v", err)
	}
	mustExec(t, second, "begin")
	second.Close()
	third, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgnotify.FromConn(third); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("a session with a transaction: %v", err)
	}
	third.Close()
	if fourth := take(t, db); fourth.pc.TransactionStatus() != pgnotify.TransactionIdle || fourth.pc.PID() == second.pc.PID() {
		t.Errorf("the transaction was handed on: %v", fourth.pc.TransactionStatus())
	}
}

// A borrower keeps what it does by itself, even if the wrapper hides all.
func TestBorrowerKeepsItsSession(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(driver.Conn) driver.Conn{
		"not wrapped": func(c driver.Conn) driver.Conn { return c },
		"hiding":      hiding,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, db := testContext(t), wrappedDB(t, wrap, func(config *pgnotify.Config) {
				config.OnConnect = func(ctx context.Context, c *pgnotify.Conn) error {
					_, err := c.ExecContext(ctx, "listen onconnect", nil)
					return err
				}
			})
			if n := queryValue[int](t, db, "select count(*) from pg_listening_channels()"); n != 1 {
				t.Errorf("%d channels are listened to, want that of OnConnect", n)
			}
			s := take(t, db)
			if err := s.pc.Listen(ctx, "own"); err != nil {
				t.Fatal(err)
			}
			mustExec(t, s, "begin")
			mustExec(t, s, "select 1")
			st, err := s.PrepareContext(ctx, "notify own")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			if _, err := st.ExecContext(ctx); err != nil {
				t.Fatal(err)
			}
			mustExec(t, s, "commit")
			if err := mustBegin(t, s).Commit(); err != nil {
				t.Fatal(err)
			}
			if n := queryValue[int](t, s, "select count(*) from pg_listening_channels()"); n != 2 {
				t.Errorf("%d channels are listened to", n)
			}
			if _, err := s.pc.WaitForNotification(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// W5: a session that OnConnect has made listen serves a statement of the pool that is
// prepared on it and executed in one go: the second step is no other borrower's.
func TestStatementOnANewSessionThatListens(t *testing.T) {
	t.Parallel()
	channel := uniqueName("a")
	db := open(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(ctx context.Context, conn *pgnotify.Conn) error { return conn.Listen(ctx, channel) }
	})
	st, err := db.PrepareContext(testContext(t), "select $1::int")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for i := range 3 { // each time on a new session
		var n int
		if err := st.QueryRowContext(testContext(t), i).Scan(&n); err != nil || n != i {
			t.Errorf("%d, %v", n, err)
		}
	}
}
