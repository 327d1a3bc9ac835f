package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// cancelTimeout is an option for open.
func cancelTimeout(d time.Duration) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) { c.CancelTimeout = d }
}

// stubborn is a statement that survives cancel requests. One request is two
// signals to a server before 18, to the process and to its group, and the second
// may come while the first is being caught: hence two handlers.
const stubborn = `do $$ begin
	loop
		begin
			loop
				begin perform pg_sleep(60); exception when query_canceled then null; end;
			end loop;
		exception when query_canceled then null;
		end;
	end loop;
end $$`

// untilWaiting returns when a statement of a session is seen in a wait event of
// the server.
func untilWaiting(t testing.TB, server queryer, pid uint32, event string) {
	t.Helper()
	until(t, fmt.Sprintf("session %d is in %s", pid, event), func() bool {
		return queryValue[bool](t, server, `select exists (select from pg_stat_activity
			where pid = $1 and state = 'active' and wait_event = $2)`, pid, event)
	})
}

// held returns a statement that waits until it is released, in the server's wait event
// "advisory".
func held(t testing.TB) (statement string, release func()) {
	t.Helper()
	holder, key := take(t, open(t, dsn(t))), rand.Int64()
	mustExec(t, holder, fmt.Sprintf("select pg_advisory_lock(%d)", key))
	return fmt.Sprintf("select pg_advisory_lock(%d)", key), func() {
		t.Helper()
		mustExec(t, holder, fmt.Sprintf("select pg_advisory_unlock(%d)", key))
	}
}

// async runs a function on a goroutine that the test outlives.
func async(t testing.TB, f func() error) <-chan error {
	done := make(chan error, 1)
	var group sync.WaitGroup
	group.Go(func() { done <- f() })
	t.Cleanup(group.Wait)
	return done
}

// Promise 2: a statement that survives each cancel request costs its session.
func TestStatementThatCannotBeCancelled(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t), cancelTimeout(400*time.Millisecond)))
	admin, pid := open(t, dsn(t)), s.pc.PID()
	t.Cleanup(func() { mustExec(t, admin, "select pg_terminate_backend($1)", pid) })
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := async(t, func() error { _, err := s.ExecContext(ctx, stubborn); return err })
	untilWaiting(t, admin, pid, "PgSleep")
	cancel()
	err := recv(t, done)
	lost, ok := asError[*pgnotify.DisconnectError](err)
	if !ok || lost.Reason != pgnotify.CancelTimeout || !lost.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("the text is broken: %v", err)
	}
}

// A deafConn swallows what is written.
type deafConn struct {
	net.Conn
	written chan<- struct{}
}

func (c deafConn) Write(p []byte) (int, error) {
	select {
	case c.written <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Promise 2: while the server has not closed the connection of a cancel request,
// the request could hit a later statement, so the session has none, whether the statement
// ends meanwhile or not.
func TestCancelRequestThatIsNotAcknowledged(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends=%v", ends), func(t *testing.T) {
			t.Parallel()
			var dials atomic.Int32
			requested := make(chan struct{}, 1)
			s := take(t, open(t, dsn(t), cancelTimeout(500*time.Millisecond), func(c *pgnotify.Config) {
				c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, address)
					if dials.Add(1) > 1 {
						conn = deafConn{conn, requested}
					}
					return conn, err
				}
			}))
			statement, release := held(t)
			pid := s.pc.PID()
			ctx, cancel := context.WithCancel(testContext(t))
			done := async(t, func() error { return execError(s.ExecContext(ctx, statement)) })
			untilWaiting(t, open(t, dsn(t)), pid, "advisory")
			cancel()
			recv(t, requested)
			if ends {
				release()
			}
			err := recv(t, done)
			if !ends {
				wantLost(t, err, "")
				release()
			} else if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if status := s.pc.TransactionStatus(); status != pgnotify.TransactionUnknown {
				t.Errorf("the session goes on: %v", status)
			}
			if dials.Load() != 2 {
				t.Errorf("%d connections", dials.Load())
			}
		})
	}
}

// silentAfter returns the script of a server that says nothing more after its
// answer to the first message of the given type.
func silentAfter(typ byte, answer ...[]byte) pgfake.Script {
	return pgfake.Script{pgfake.Greet(), pgfake.Await(typ), pgfake.Send(answer...), pgfake.Drain()}
}

// Promise 3: COMMIT ends with the context of its transaction.
func TestCommitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, silentAfter('Q', pgfake.Complete("BEGIN"), pgfake.Ready('T')))
	db := open(t, server.DSN(), cancelTimeout(100*time.Millisecond))
	ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tx.Commit() }()
	err = recv(t, done)
	lost, ok := asError[*pgnotify.DisconnectError](err)
	if !ok || !lost.Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// Promise 3: the ROLLBACK that database/sql sends when the context has ended does
// not wait for ever.
func TestRollbackAfterTheContextIsBounded(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, silentAfter('Q', pgfake.Complete("BEGIN"), pgfake.Ready('T')),
		pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	db := open(t, server.DSN(), cancelTimeout(100*time.Millisecond))
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithCancel(testContext(t))
	if _, err := db.BeginTx(ctx, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	mustExec(t, db, "select 1")
}

// database/sql holds the pool's lock while it closes a statement of an idle
// session.
func TestClosingAStatementIsBounded(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, silentAfter('S', pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x00"),
		pgfake.Columns("one"), pgfake.Ready('I')))
	db := open(t, server.DSN(), cancelTimeout(100*time.Millisecond))
	st, err := db.PrepareContext(testContext(t), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- st.Close() }()
	recv(t, done)
}

// As with lib/pq: what runs without a context of its own in a transaction ends
// with the transaction's.
func TestTransactionContextCancelsItsStatements(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	db.SetMaxOpenConns(1)
	pid := queryValue[int](t, db, "select pg_backend_pid()")
	for name, run := range map[string]func(execer) error{
		"exec": func(tx execer) error {
			_, err := tx.ExecContext(context.Background(), "select pg_sleep(60)")
			return err
		},
		"query": func(tx execer) error {
			var text string
			return tx.(queryer).QueryRowContext(context.Background(), "select pg_sleep($1)", 60).Scan(&text)
		},
	} {
		ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
		defer cancel()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := run(tx); !errors.Is(err, context.DeadlineExceeded) || serverError(t, err).Code != "57014" {
			t.Errorf("%s: %v", name, err)
		}
		if again := queryValue[int](t, db, "select pg_backend_pid()"); again != pid {
			t.Errorf("%s: session %d became %d", name, pid, again)
		}
	}
	mustExec(t, db, "select pg_sleep(0.01)")
}

// Promise 2: a cancel request that cannot be sent costs neither the statement,
// when that ends by itself, nor the session.
func TestCancelThatDoesNotGetThere(t *testing.T) {
	t.Parallel()
	var hang atomic.Bool
	s := take(t, open(t, dsn(t), cancelTimeout(20*time.Second), func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if hang.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}))
	hang.Store(true)
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	done := async(t, func() error { return execError(s.ExecContext(ctx, "select pg_sleep(0.3)")) })
	if err := recv(t, done); err != nil {
		t.Errorf("the statement: %v", err)
	}
	if err := s.pc.DisconnectErr(); err != nil {
		t.Errorf("the session: %v", err)
	}
}
