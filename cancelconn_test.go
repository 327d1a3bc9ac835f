package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A network dials for a pool: at first as always, and then, for cancel requests,
// as a test says.
type network struct {
	mu        sync.Mutex // guards the fields below
	addresses []string
	last      *recordingConn
	detour    func(ctx context.Context, network, address string) (net.Conn, error)
}

func (n *network) option(c *pgnotify.Config) { c.DialContext = n.dial }

func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.addresses = append(n.addresses, address)
	dial := n.detour
	n.mu.Unlock()
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = &recordingConn{Conn: conn}
	return n.last, nil
}

// divert has connections made from now on by dial.
func (n *network) divert(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.detour = dial
}

// dialed returns the addresses that were dialed so far.
func (n *network) dialed() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.addresses)
}

// sent returns what was sent first over the last connection.
func (n *network) sent() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last.bytes()
}

// A recordingConn keeps the beginning of what is written.
type recordingConn struct {
	net.Conn
	mu      sync.Mutex // guards written
	written []byte
}

func (c *recordingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.written) < 1<<12 {
		c.written = append(c.written, p[:n]...)
	}
	return n, err
}

// SyscallConn is there because pgnotify looks at idle sockets.
func (c *recordingConn) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := c.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (c *recordingConn) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.written)
}

// eachWay runs a test over each way to the server, for a passive and an active
// session, with a network that is its own.
func eachWay(t *testing.T, f func(t *testing.T, m mode, newSession func(t *testing.T, options ...func(*pgnotify.Config)) (*session, *network))) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				f(t, m, func(t *testing.T, options ...func(*pgnotify.Config)) (*session, *network) {
					n := new(network)
					s := take(t, open(t, m.dsn, append(options, n.option)...))
					if active {
						s.pc.Activate()
					}
					return s, n
				})
			})
		}
	}
}

// K2: Cancel does nothing where there is nothing to cancel. Not even a connection
// is made, and the next statement is well.
func TestCancelOfAnIdleSession(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		s, n := newSession(t)
		ctx := testContext(t)
		for i := range 300 {
			if err := s.pc.Cancel(ctx); err != nil {
				t.Fatal(err)
			}
			if got := queryValue[int](t, s, "select 7"); got != 7 {
				t.Fatalf("round %d: got %d", i, got)
			}
		}
		tx := mustBegin(t, s)
		for range 10 {
			if err := s.pc.Cancel(ctx); err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, "select 1")
		}
		mustCommit(t, tx)
		if dialed := n.dialed(); len(dialed) != 1 {
			t.Errorf("connections to %q", dialed)
		}
	})
}

// K2
func TestCancelOfASessionThatHasEnded(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		ctx := testContext(t)
		closed, n := newSession(t)
		if err := closed.Raw(func(dc any) error { return dc.(driver.Conn).Close() }); err != nil {
			t.Error(err)
		}
		if err := closed.pc.Cancel(ctx); err != nil || len(n.dialed()) != 1 {
			t.Errorf("of a closed session: %v; connections to %q", err, n.dialed())
		}

		lost, n := newSession(t)
		server := open(t, dsn(t))
		done := async(t, func() error { return execError(lost.ExecContext(ctx, longSleep)) })
		untilWaiting(t, server, lost.pc.PID(), "PgSleep")
		queryValue[bool](t, server, "select pg_terminate_backend($1)", lost.pc.PID())
		if err := recv(t, done); !pgnotify.IsDisconnect(err) {
			t.Errorf("the statement: %v", err)
		}
		if err := lost.pc.Cancel(ctx); err != nil || len(n.dialed()) != 1 {
			t.Errorf("of a lost session: %v; connections to %q", err, n.dialed())
		}
	})
}

// K2, promise 7: a handle that was kept too long cannot cancel what the next
// borrower does.
func TestCancelByAnOldHandle(t *testing.T) {
	single(t, func(t *testing.T, db *sql.DB) {
		ctx := testContext(t)
		first := take(t, db)
		first.Close()
		if err := first.pc.Cancel(ctx); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("of a session in the pool: %v", err)
		}
		second := take(t, db)
		done := async(t, func() error { return execError(second.ExecContext(ctx, "select pg_sleep(0.2)")) })
		untilWaiting(t, open(t, dsn(t)), second.pc.PID(), "PgSleep")
		if err := first.pc.Cancel(ctx); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("of a session that somebody else has: %v", err)
		}
		if err := recv(t, done); err != nil {
			t.Errorf("the other's statement: %v", err)
		}
		if first.pc.PID() != second.pc.PID() {
			t.Error("it is another session")
		}
	})
}

// K2, promise 7: the same while the session changes hands.
func TestCancelWhileTheSessionIsReturned(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	db.SetMaxOpenConns(1)
	ctx := testContext(t)
	for i := range 300 {
		first := take(t, db)
		done := async(t, func() error { return first.pc.Cancel(ctx) })
		if i%2 == 0 {
			if _, err := first.ExecContext(ctx, "select 1"); err != nil && !isQueryCanceled(err) {
				t.Errorf("round %d: the statement: %v", i, err)
			}
		}
		first.Close()
		if _, err := db.ExecContext(ctx, "select pg_sleep(0.001)"); err != nil {
			t.Fatalf("round %d: the next borrower: %v", i, err)
		}
		if err := recv(t, done); err != nil && !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("round %d: Cancel: %v", i, err)
		}
	}
}

// K2: a context that is done already does nothing.
func TestCancelWithADeadContext(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		s, n := newSession(t)
		dead, cancel := context.WithCancel(testContext(t))
		cancel()
		done := async(t, func() error { return execError(s.ExecContext(testContext(t), "select pg_sleep(0.2)")) })
		untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
		if err := s.pc.Cancel(dead); !errors.Is(err, context.Canceled) {
			t.Errorf("Cancel: %v", err)
		}
		if err := recv(t, done); err != nil || len(n.dialed()) != 1 {
			t.Errorf("the statement: %v; connections to %q", err, n.dialed())
		}
	})
}

// K12: anybody may call Cancel at any time, besides others and besides the end of
// the context, and close the session meanwhile.
func TestCancelFromManyGoroutines(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		s, _ := newSession(t)
		all, stop := context.WithCancel(testContext(t))
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for all.Err() == nil {
					time.Sleep(time.Duration(rand.IntN(int(100 * time.Millisecond)))) // each may cost the server a process
					if err := s.pc.Cancel(all); err != nil && all.Err() == nil {
						t.Errorf("Cancel: %v", err)
					}
				}
			})
		}
		for range 50 {
			ctx, cancel := context.WithTimeout(all, 20*time.Millisecond)
			_, err := s.ExecContext(ctx, longSleep)
			cancel()
			if !isQueryCanceled(err) && !errors.Is(err, context.DeadlineExceeded) || pgnotify.IsDisconnect(err) {
				t.Errorf("the statement: %v", err)
			}
		}
		stop()
		group.Wait()
		if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
			t.Errorf("session %d became %d", s.pc.PID(), pid)
		}
	})
}

// isQueryCanceled reports whether the server ended a statement for a cancel
// request.
func isQueryCanceled(err error) bool {
	e, ok := asError[*pq.Error](err)
	return ok && e.Code == "57014"
}

// K12: a session that is closed while it is cancelled.
func TestCancelWhileTheSessionIsClosed(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		server := open(t, dsn(t))
		for range 10 {
			s, _ := newSession(t)
			ctx, cancel := context.WithCancel(testContext(t))
			statement := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
			untilWaiting(t, server, s.pc.PID(), "PgSleep")
			byHandle := async(t, func() error { return s.pc.Cancel(ctx) })
			closing := async(t, s.Close)
			cancel()
			if err := recv(t, statement); !isQueryCanceled(err) && !errors.Is(err, context.Canceled) {
				t.Errorf("the statement: %v", err)
			}
			if err := recv(t, byHandle); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, pgnotify.ErrReleased) {
				t.Errorf("Cancel: %v", err)
			}
			if err := recv(t, closing); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
}

// K12: of several hosts the cancel request goes to the one that is connected.
func TestCancelGoesToTheConnectedHost(t *testing.T) {
	t.Parallel()
	server := ours(t)
	dead := closedPort(t)
	n := new(network)
	live := fmt.Sprintf("%s:%d", server.Host(), server.Port())
	s := take(t, open(t, fmt.Sprintf("%s host=%s,%[2]s,%[2]s port=%d,%d,%[3]d", server.dsn, server.Host(), dead, server.Port()), n.option))
	for i, cancel := range map[string]func(context.Context, context.CancelFunc) error{
		"by the context": func(_ context.Context, cancel context.CancelFunc) error { cancel(); return nil },
		"by Cancel":      func(ctx context.Context, _ context.CancelFunc) error { return s.pc.Cancel(ctx) },
	} {
		before := len(n.dialed())
		ctx, stop := context.WithCancel(testContext(t))
		done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
		untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
		if err := cancel(ctx, stop); err != nil {
			t.Error(err)
		}
		if err := recv(t, done); !isQueryCanceled(err) {
			t.Errorf("%s: %v", i, err)
		}
		stop()
		if dialed := n.dialed()[before:]; !slices.Equal(dialed, []string{live}) {
			t.Errorf("%s: connections to %q, want one to %s", i, dialed, live)
		}
	}
	if dialed := n.dialed(); len(dialed) != 4 {
		t.Errorf("connections to %q", dialed)
	}
}

// K12: of several addresses of a name the cancel request goes to the one that is
// connected. The name is not looked up again: it may lead elsewhere by now.
func TestCancelGoesToTheConnectedAddress(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"context", "Cancel"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			asked, cancelled := make(chan struct{}), make(chan struct{})
			fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
				func(*pgfake.Session) error { close(asked); return nil }, pgfake.WaitFor(cancelled),
				pgfake.Send(pgfake.Error("ERROR", "57014", "canceling statement due to user request"), pgfake.Ready('I')),
				pgfake.Serve()})
			name := names.Add("127.0.0.2", "127.0.0.1") // nobody listens at the first
			s := take(t, open(t, listDSN(t, net.JoinHostPort(name, portOf(t, fake.Addr())))))
			lookups := names.Asked(name)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			done := async(t, func() error { return execError(s.ExecContext(ctx, "select 1")) })
			recv(t, asked)
			if by == "context" {
				cancel()
			} else if err := s.pc.Cancel(ctx); err != nil {
				t.Errorf("Cancel: %v", err)
			}
			until(t, "the request has come", func() bool { return fake.Cancels() > 0 })
			close(cancelled)
			if err := recv(t, done); !isQueryCanceled(err) {
				t.Errorf("the statement: %v", err)
			}
			if n := names.Asked(name) - lookups; n != 0 {
				t.Errorf("%d more questions about the name", n)
			}
			mustExec(t, s, "select 1")
		})
	}
}

// K12: the request is encrypted where the session is, and not where it is not, be
// it that sslmode left the choice to the server.
func TestCancelUnderTheSessionsTLS(t *testing.T) {
	t.Parallel()
	server := ours(t)
	for _, c := range []struct {
		dsn string
		tls bool
	}{
		{" sslmode=disable", false},
		{" sslmode=prefer", true},
		{" sslmode=allow", false},
		{" sslmode=allow user=t_hostssl", true},
		{" sslmode=prefer user=t_hostnossl", false},
		{" sslmode=verify-ca sslrootcert=" + server.ca, true},
	} {
		t.Run(c.dsn, func(t *testing.T) {
			t.Parallel()
			n := new(network)
			s := take(t, open(t, server.dsn+c.dsn, n.option))
			before := len(n.dialed())
			ctx, cancel := context.WithCancel(testContext(t))
			done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
			untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
			cancel()
			if err := recv(t, done); !isQueryCanceled(err) {
				t.Errorf("%v", err)
			}
			if dialed := n.dialed()[before:]; len(dialed) != 1 {
				t.Errorf("connections to %q", dialed)
			}
			sent := n.sent()
			const sslRequest, cancelRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x00\x00\x00\x10\x04\xd2\x16\x2e"
			want := map[bool]string{false: cancelRequest, true: sslRequest}[c.tls]
			if !slices.Equal(sent[:min(8, len(sent))], []byte(want)) || len(sent) == 16 == c.tls {
				t.Errorf("%d bytes were sent: %q", len(sent), sent)
			}
		})
	}
}

// K2: Cancel when the rows are read, and not yet closed: the request under way has
// ended for the server, and the next is not hit.
func TestCancelBeforeTheRowsAreClosed(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx := testContext(t)
		for i := range 50 {
			rows, err := s.QueryContext(ctx, "select $1::int", i)
			if err != nil {
				t.Fatal(err)
			}
			if !rows.Next() {
				t.Fatal(rows.Err())
			}
			cancelled := recv(t, async(t, func() error { return s.pc.Cancel(ctx) }))
			if err := rows.Close(); err != nil && !isQueryCanceled(err) || cancelled != nil {
				t.Errorf("closing the rows: %v; Cancel: %v", err, cancelled)
			}
			mustExec(t, s, "select pg_sleep(0.001)")
		}
	})
}

// A handler may cancel the statement that it is called for.
func TestCancelFromAHandler(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		outcomes := make(chan error, 1)
		s.pc.AddNoticeHandler(func(*pgnotify.Notice) { outcomes <- s.pc.Cancel(testContext(t)) })
		_, err := s.ExecContext(testContext(t), "do $$ begin raise notice 'enough'; perform pg_sleep(60); end $$")
		if !isQueryCanceled(err) {
			t.Errorf("the statement: %v", err)
		}
		if err := recv(t, outcomes); err != nil {
			t.Errorf("Cancel: %v", err)
		}
		mustExec(t, s, "select 1")
	})
}
