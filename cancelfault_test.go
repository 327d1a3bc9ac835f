package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dialRefused dials a port where nobody listens.
func dialRefused(t *testing.T) dialer {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(closedPort(t)))
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

// dialNowhere is a network that swallows the packets of those who connect.
func dialNowhere(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
}

// dialPeer dials a server that says some words, reads what it is sent, and says no
// more.
func dialPeer(t *testing.T, words string) dialer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { // ends when the client closes
				defer conn.Close()
				_, _ = io.WriteString(conn, words)
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		group.Wait()
	})
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// A barrier holds somebody up until it is opened.
type barrier struct {
	reached chan struct{} // has a value when somebody waits, or has waited
	opened  chan struct{}
}

func newBarrier() *barrier {
	return &barrier{reached: make(chan struct{}, 1), opened: make(chan struct{})}
}

func (b *barrier) open() { close(b.opened) }

// pass waits for the barrier, or until closed is closed. A barrier that is nil is open.
func (b *barrier) pass(closed <-chan struct{}) {
	if b == nil {
		return
	}
	select {
	case b.reached <- struct{}{}:
	default:
	}
	select {
	case <-b.opened:
	case <-closed:
	}
}

// dialLate dials the server over a connection that is late: there is a barrier before a
// cancel request, and one before what the server says to it.
func dialLate(before, after *barrier) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &lateConn{Conn: conn, before: before, after: after, closed: make(chan struct{})}, nil
	}
}

type lateConn struct {
	net.Conn
	before, after *barrier
	requested     atomic.Bool
	once          sync.Once
	closed        chan struct{}
}

// Lengths of a cancel request, as it is and in a record of TLS 1.3.
const (
	requestSize    = 16
	requestSizeTLS = requestSize + 22
)

func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A cancelFault is what may happen to the connection of a cancel request.
type cancelFault struct {
	dial func(t *testing.T, b *barrier) dialer
	text string // in the error of Cancel, and of a lost session
	late bool   // it works as soon as the barrier is opened
	done bool   // the server gets the request, but is not seen to while the barrier is closed
}

// timeout returns a CancelTimeout: one that ends, or for what works in the end, one that
// only guards against a hang.
func (f cancelFault) timeout() func(*pgnotify.Config) {
	if f.late {
		return cancelTimeout(time.Minute)
	}
	return cancelTimeout(time.Second)
}

// statement returns one that lasts until it is cancelled, if it will be.
func (f cancelFault) statement() string {
	if f.late || f.done {
		return longSleep
	}
	return "select pg_sleep(1.5)"
}

var cancelFaults = map[string]cancelFault{
	"closed port": {text: "refused", dial: func(t *testing.T, _ *barrier) dialer { return dialRefused(t) }},
	"no way":      {dial: func(*testing.T, *barrier) dialer { return dialNowhere }},
	"deaf server": {dial: func(t *testing.T, _ *barrier) dialer { return dialPeer(t, "") }},
	"a server that stops half-way": {dial: func(t *testing.T, _ *barrier) dialer {
		return dialPeer(t, "S\x16\x03\x03\x01") // the answer to an SSLRequest, and a part of a TLS record
	}},
	"another protocol":  {dial: func(t *testing.T, _ *barrier) dialer { return dialPeer(t, "HTTP/1.1 400 Bad Request\r\n\r\n") }},
	"slow request":      {late: true, dial: func(_ *testing.T, b *barrier) dialer { return dialLate(b, nil) }},
	"slow answer":       {late: true, dial: func(_ *testing.T, b *barrier) dialer { return dialLate(nil, b) }},
	"the reply is lost": {done: true, dial: func(_ *testing.T, b *barrier) dialer { return dialLate(nil, b) }},
}

// together runs subtests at the same time, however few processors there are: they
// spend their time waiting.
func together[V any](t *testing.T, cases map[string]V, f func(t *testing.T, v V)) {
	t.Helper()
	var group sync.WaitGroup
	defer group.Wait()
	for name, v := range cases {
		group.Go(func() { t.Run(name, func(t *testing.T) { f(t, v) }) })
	}
}

// eachCancelFault runs a test over each fault and each way to the server. The barrier is
// that of the fault.
func eachCancelFault(t *testing.T, f func(t *testing.T, fault cancelFault, s *session, b *barrier)) {
	t.Helper()
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		together(t, cancelFaults, func(t *testing.T, fault cancelFault) {
			s, n := newSession(t, fault.timeout())
			server, pid := open(t, dsn(t)), s.pc.PID()
			t.Cleanup(func() { mustExec(t, server, "select pg_terminate_backend($1)", pid) })
			b := newBarrier()
			n.divert(fault.dial(t, b))
			f(t, fault, s, b)
		})
	})
}

// wantLost checks the error of a statement whose session was lost because it
// could not be cancelled.
func wantLost(t *testing.T, err error, text string) {
	t.Helper()
	lost, ok := asError[*pgnotify.DisconnectError](err)
	if !ok || lost.Reason != pgnotify.CancelTimeout || !lost.Sent || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("the statement's error: %v", err)
	} else if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "outcome is unknown") {
		t.Errorf("the error does not say %q: %v", text, err)
	}
}

// wantEnd checks whether a session is lost or kept.
func wantEnd(t *testing.T, s *session, kept bool) {
	t.Helper()
	if !kept {
		if status := s.pc.TransactionStatus(); status != pgnotify.TransactionUnknown {
			t.Errorf("the session is %v", status)
		}
		return
	}
	if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
		t.Errorf("session %d became %d", s.pc.PID(), pid)
	}
	mustExec(t, s, "select pg_sleep(0.5)") // nothing comes after
}

// K3: when the cancel request of a context does not get through, the statement
// ends by CancelTimeout and says that its outcome is unknown. Where the request
// is only late, it works.
func TestContextEndsBesidesACancelFault(t *testing.T) {
	eachCancelFault(t, func(t *testing.T, fault cancelFault, s *session, b *barrier) {
		ctx, cancel := context.WithCancel(testContext(t))
		done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
		untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
		cancel()
		if fault.late {
			recv(t, b.reached)
			b.open()
		}
		err := recv(t, done)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it is not the context's: %v", err)
		}
		if fault.late || fault.done {
			if !isQueryCanceled(err) || pgnotify.IsDisconnect(err) {
				t.Errorf("the statement's error: %v", err)
			}
		} else {
			wantLost(t, err, fault.text)
		}
		wantEnd(t, s, fault.late)
	})
}

// K3: Cancel returns by its context, or by CancelTimeout. The statement goes on if
// the request was not sent; if it may have been, its session is given up.
func TestCancelBesidesAFault(t *testing.T) {
	for _, byContext := range []bool{true, false} {
		t.Run(map[bool]string{true: "its context", false: "CancelTimeout"}[byContext], func(t *testing.T) {
			eachCancelFault(t, func(t *testing.T, fault cancelFault, s *session, b *barrier) {
				done := async(t, func() error { return execError(s.ExecContext(testContext(t), fault.statement())) })
				untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
				ctx, stop := context.WithCancel(testContext(t))
				defer stop()
				cancelled := async(t, func() error { return s.pc.Cancel(ctx) })
				if fault.late || fault.done {
					recv(t, b.reached)
				}
				if byContext {
					time.AfterFunc(350*time.Millisecond, stop)
				} else if fault.late {
					b.open()
				}
				err := recv(t, cancelled)
				if fault.late && !byContext {
					if err != nil {
						t.Errorf("Cancel: %v", err)
					}
				} else if err == nil || !strings.Contains(err.Error(), fault.text) {
					t.Errorf("Cancel: %v", err)
				} else if fault.text == "" && ctx.Err() != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("Cancel does not tell of its context: %v", err)
				}
				if fault.late && byContext {
					b.open()
				}
				err = recv(t, done)
				if err != nil && (!isQueryCanceled(err) || !fault.late && !fault.done) {
					t.Errorf("the statement: %v", err)
				}
				if err == nil && (fault.late || fault.done) {
					t.Error("the statement was not cancelled")
				}
			})
		})
	}
}

// K3: Cancel has given up when the server takes the request, or when that is known. The
// statement waits for it, and the next one is well.
func TestCancelThatIsLate(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		for _, name := range []string{"slow request", "slow answer"} {
			ends := map[string]string{"before": "before", "meanwhile": "meanwhile", "never": "never"}
			together(t, ends, func(t *testing.T, ends string) { // when the statement ends by itself
				s, n := newSession(t, cancelFaults[name].timeout())
				b := newBarrier()
				n.divert(cancelFaults[name].dial(t, b))
				statement, release := held(t)
				server, pid := open(t, dsn(t)), s.pc.PID()
				done := async(t, func() error { return execError(s.ExecContext(testContext(t), statement)) })
				untilWaiting(t, server, pid, "advisory")
				ctx, stop := context.WithCancel(testContext(t))
				defer stop()
				cancelled := async(t, func() error { return s.pc.Cancel(ctx) })
				recv(t, b.reached)
				stop()
				if err := recv(t, cancelled); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: Cancel: %v", name, err)
				}
				if ends != "never" {
					release()
				}
				if ends == "before" {
					until(t, "the statement is done", func() bool {
						return !queryValue[bool](t, server, "select exists (select from pg_stat_activity where pid = $1 and state = 'active')", pid)
					})
				}
				b.open()
				if err := recv(t, done); err != nil && !isQueryCanceled(err) {
					t.Errorf("%s: the statement: %v", name, err)
				}
				wantEnd(t, s, true)
			})
		}
	})
}

// K3: a request that was sent and is never acknowledged keeps the statement until
// CancelTimeout, and then costs the session, even where the statement was done
// before.
func TestCancelThatIsNotAcknowledged(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		const timeout = 600 * time.Millisecond
		s, n := newSession(t, cancelTimeout(timeout))
		n.divert(cancelFaults["the reply is lost"].dial(t, newBarrier()))
		ctx := testContext(t)
		done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
		untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
		short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		defer stop()
		began := time.Now()
		if err := s.pc.Cancel(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Cancel: %v", err)
		}
		err := recv(t, done)
		if took := time.Since(began); took < timeout {
			t.Errorf("the statement returned after %v", took)
		}
		if !isQueryCanceled(err) {
			t.Errorf("the statement: %v", err)
		}
		wantEnd(t, s, false)
		_, err = s.ExecContext(ctx, "select 1")
		if lost, ok := asError[*pgnotify.DisconnectError](err); ok && lost.Reason != pgnotify.CancelTimeout || err == nil {
			t.Errorf("the next statement: %v", err)
		}
	})
}

// A server that takes a statement and says nothing, or stops half-way through a
// message: its end by a context is bounded, and the outcome is unknown.
func TestContextEndsASilentServer(t *testing.T) {
	t.Parallel()
	row := pgfake.Row("1")
	whole := append(append(pgfake.Columns("one"), row...), append(pgfake.Complete("SELECT 1"), pgfake.Ready('I')...)...)
	for name, words := range map[string][]byte{
		"nothing":            nil,
		"a part of a header": whole[:3],
		"a part of a row":    whole[:len(pgfake.Columns("one"))+len(row)-1],
		"no ReadyForQuery":   whole[:len(whole)-6],
		"a part of the last": whole[:len(whole)-1],
		"a part of an error": pgfake.Error("ERROR", "57014", "canceling statement due to user request")[:20],
	} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				together(t, map[string]func(ctx context.Context, s *session) error{
					"exec":  func(ctx context.Context, s *session) error { return execError(s.ExecContext(ctx, "select 1")) },
					"query": func(ctx context.Context, s *session) error { return readRows(s.QueryContext(ctx, "select 1")) },
					"row":   func(ctx context.Context, s *session) error { return scan(s.QueryRowContext(ctx, "select 1")) },
				}, func(t *testing.T, f func(ctx context.Context, s *session) error) { cancelSilent(t, words, active, f) })
			})
		}
	}
}

// cancelSilent cancels a request to a server that says some words, and no more.
func cancelSilent(t *testing.T, words []byte, active bool, f func(ctx context.Context, s *session) error) {
	asked := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(words),
		func(*pgfake.Session) error { close(asked); return nil }, pgfake.Drain()})
	s := take(t, open(t, fake.DSN(), cancelTimeout(200*time.Millisecond)))
	if active {
		s.pc.Activate()
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := async(t, func() error { return f(ctx, s) })
	recv(t, asked)
	cancel()
	err := recv(t, done)
	if !errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("got %v", err)
	}
	if pgnotify.IsDisconnect(err) { // otherwise database/sql has the last word
		wantLost(t, err, "")
	}
	wantEnd(t, s, false)
	if fake.Cancels() == 0 {
		t.Error("no cancel request was sent")
	}
}

// K9: a server that does not read any more, so that a request which is longer than
// the sockets can hold blocks while it is written. It ends by its context.
func TestContextEndsAWriteThatBlocks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<26)
	for name, c := range map[string]struct {
		before pgfake.Script
		run    func(ctx context.Context, s *session) error
	}{
		"exec": {nil, func(ctx context.Context, s *session) error { return execError(s.ExecContext(ctx, long)) }},
		"copy": {pgfake.Script{pgfake.Await('Q'), pgfake.Send(pgfake.Complete("BEGIN"), pgfake.Ready('T')),
			pgfake.Await('Q'), pgfake.Send(pgfake.CopyIn(1))}, func(ctx context.Context, s *session) error {
			tx, err := s.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			return copyRows(ctx, tx, "t", func(st *sql.Stmt) error { return execError(st.ExecContext(ctx, long)) })
		}},
	} {
		for _, secure := range []bool{false, true} {
			for _, active := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tls=%v/active=%v", name, secure, active), func(t *testing.T) {
					cancelBlocked(t, c.before, secure, active, c.run)
				})
			}
		}
	}
}

// cancelBlocked cancels a request of which the server takes the first byte only.
func cancelBlocked(t *testing.T, before pgfake.Script, secure, active bool, f func(ctx context.Context, s *session) error) {
	const limit = 10 * time.Second
	begun := make(chan struct{})
	first := func(c *pgfake.Session) error {
		_, err := c.Conn.Read(make([]byte, 1))
		close(begun)
		return err
	}
	scripts, parameters := []pgfake.Script{slices.Concat(pgfake.Script{pgfake.Greet()}, before, pgfake.Script{first, pgfake.Hang()})}, ""
	if secure {
		tls := pgfake.StartTLS(fakeTLS(t, nil))
		scripts[0] = slices.Insert(scripts[0], 0, tls)
		scripts = append(scripts, pgfake.Script{tls, pgfake.Startup()}) // for cancel requests
		parameters = " sslmode=require"
	}
	s := take(t, open(t, pgfake.Start(t, scripts...).DSN()+parameters, cancelTimeout(300*time.Millisecond)))
	if active {
		s.pc.Activate()
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := async(t, func() error { return f(ctx, s) })
	recv(t, begun)
	cancel()
	began := time.Now()
	err := recv(t, done)
	if took := time.Since(began); took > limit {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("got %v", err)
	}
	wantEnd(t, s, false)
}
