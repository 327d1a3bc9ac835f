package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// D11: the holder of an advisory lock stops as soon as its session is lost, which
// is when the server gives the lock to somebody else.
func TestLockHolderStops(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		var took []time.Duration
		for i := range 5 {
			w := newObserved()
			key := int64(w.pc.PID())<<20 + int64(i)
			mustExec(t, w, "select pg_advisory_lock($1)", key)
			ctx, stop := w.pc.WatchContext(testContext(t))
			defer stop()
			stopped := make(chan time.Time, 1)
			go func() { // ends with the session
				<-ctx.Done()
				stopped <- time.Now()
			}()
			other := take(t, admin)
			waits := async(t, func() error { return execError(other.ExecContext(testContext(t), "select pg_advisory_lock($1)", key)) })
			untilWaiting(t, admin, other.pc.PID(), "advisory")
			terminate(t, admin, w.pc.PID())
			start := time.Now()
			took = append(took, recv(t, stopped).Sub(start))
			if err := recv(t, waits); err != nil {
				t.Error(err)
			}
			other.Close()
			wantLoss(t, "cause", context.Cause(ctx), pgnotify.AdminShutdown, "57P01")
			w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		}
		wantSoon(t, took)
	})
}

// D11: a context ends by its own cancel function, by its parent, and by the
// session, whichever is first, and has its parent's values.
func TestWatchContextEnds(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		before := w.pc.Waiting()
		type key struct{}
		mine := errors.New("mine")
		parent, end := context.WithCancelCause(context.WithValue(testContext(t), key{}, "value"))

		stopped, stop := w.pc.WatchContext(parent)
		if stopped.Value(key{}) != "value" {
			t.Error("the parent's value is missing")
		}
		stop()
		stop()
		if err := context.Cause(stopped); err != context.Canceled {
			t.Errorf("stopped: %v", err)
		}

		orphan, stop := w.pc.WatchContext(parent)
		end(mine)
		recv(t, orphan.Done())
		if err := context.Cause(orphan); err != mine {
			t.Errorf("its parent has ended: %v", err)
		}
		stop()

		born, stop := w.pc.WatchContext(parent)
		if err := context.Cause(born); err != mine {
			t.Errorf("its parent had ended: %v", err)
		}
		stop()

		if n := w.pc.Waiting(); n != before {
			t.Errorf("%d contexts are kept, %d before", n, before)
		}
		w.wantAlive(t)

		deadline, cancel := context.WithTimeout(testContext(t), time.Hour)
		defer cancel()
		last, stop := w.pc.WatchContext(deadline)
		defer stop()
		if got, _ := last.Deadline(); got.IsZero() {
			t.Error("the parent's deadline is missing")
		}
		nested, stopNested := w.pc.WatchContext(last)
		defer stopNested()
		terminate(t, admin, w.pc.PID())
		wantLoss(t, "cause", context.Cause(contextDone(t, last)), pgnotify.AdminShutdown, "57P01")
		wantLoss(t, "cause of the nested one", context.Cause(contextDone(t, nested)), pgnotify.AdminShutdown, "57P01")
		stop()
		wantLoss(t, "cause, after cancel", context.Cause(last), pgnotify.AdminShutdown, "57P01")
	})
}

// D11: a query under its session's own context ends at once, with the server's
// reason. Nothing is left to be cancelled, on a server that may not answer.
func TestQueryUnderTheSessionsContext(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		for _, deaf := range []bool{false, true} {
			n := new(network)
			w := newObserved(n.option, cancelTimeout(20*time.Second))
			if deaf {
				n.divert(dialNowhere)
			}
			done := async(t, func() error { return execError(w.ExecContext(w.ctx, "select pg_sleep(60)")) })
			untilWaiting(t, admin, w.pc.PID(), "PgSleep")
			terminate(t, admin, w.pc.PID())
			select {
			case err := <-done:
				if lost := wantLoss(t, "the query", err, pgnotify.AdminShutdown, "57P01"); !lost.Sent {
					t.Errorf("not sent: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the query waits")
			}
			if dialed := n.dialed(); len(dialed) != 1 {
				t.Errorf("connections to cancel with: %v", dialed[1:])
			}
		}
	})
}

// D1: a session that is lost while its statement is being cancelled needs no
// cancelling any more.
func TestTerminatedWhileCancelling(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		n := new(network)
		w := newObserved(n.option, cancelTimeout(20*time.Second))
		n.divert(dialNowhere)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		done := async(t, func() error { return execError(w.ExecContext(ctx, "select pg_sleep(60)")) })
		untilWaiting(t, admin, w.pc.PID(), "PgSleep")
		cancel()
		until(t, "the cancel request is under way", func() bool { return len(n.dialed()) == 2 })
		terminate(t, admin, w.pc.PID())
		select {
		case err := <-done:
			wantLoss(t, "the query", err, pgnotify.AdminShutdown, "57P01")
		case <-time.After(10 * time.Second):
			t.Error("the query waits")
		}
	})
}

// D11: contexts cost no goroutine, and cancelled ones no memory. The tests that
// look at the goroutines of the process are not parallel.
func TestWatchContextStartsNoGoroutine(t *testing.T) {
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	s := take(t, open(t, server.DSN()))
	parent, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := runtime.NumGoroutine()
	var stops []context.CancelFunc
	for i := range 1000 {
		ctx, stop := s.pc.WatchContext(parent)
		stops = append(stops, stop)
		if i%2 == 0 {
			stop()
		}
		s.pc.Disconnected()
		if (ctx.Err() != nil) != (i%2 == 0) {
			t.Fatal(ctx.Err())
		}
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	if n := s.pc.Waiting(); n != 500 {
		t.Errorf("%d contexts are kept, want 500", n)
	}
	for _, stop := range stops {
		stop()
	}
	if n := s.pc.Waiting(); n != 0 {
		t.Errorf("%d contexts are kept", n)
	}
	if runtime.GOOS == "linux" && s.pc.Active() {
		t.Error("the session has become active")
	}
}

// D9: watched sessions, whose end somebody waits for, share one goroutine, and no
// thread waits with it.
func TestWatchingCostsOneGoroutine(t *testing.T) {
	const sessions = 500
	before := len(goroutinesOf("internal/fdwatch")) // a test that waits for its turn may have a session
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	ended := make(chan farewell, sessions)
	db := open(t, server.DSN(), toldTo(ended))
	db.SetMaxIdleConns(sessions)
	var all []*session
	for range sessions {
		s := take(t, db)
		ctx, stop := s.pc.WatchContext(context.Background())
		defer stop()
		if err := context.Cause(ctx); err != nil {
			t.Fatal(err)
		}
		s.pc.Disconnected()
		all = append(all, s)
	}
	if !all[0].pc.Watched() {
		t.Skip("sockets are not watched on this system")
	}
	check := func(when string, want int) {
		t.Helper()
		until(t, fmt.Sprintf("%s: %d poller", when, want), func() bool { return len(goroutinesOf("internal/fdwatch")) == want })
		if started := goroutinesOfPgnotify(); started != "" {
			t.Errorf("%s: goroutines for sessions:\n%.2000s", when, started)
		}
	}
	check("taken", 1)
	if g := goroutinesOf("internal/fdwatch"); runtime.GOOS == "linux" && !strings.Contains(g[0], "[IO wait") {
		t.Errorf("the poller has a thread:\n%s", g[0])
	}
	for _, s := range all {
		s.Close()
	}
	check("in the pool", 1)
	for range 3 * sessions {
		queryValue[string](t, db, "select 1")
	}
	check("used", 1)
	if server.Sessions() != sessions || len(ended) != 0 {
		t.Errorf("%d sessions, %d ended", server.Sessions(), len(ended))
	}
	db.Close()
	for range sessions {
		if e := recv(t, ended); e.err.Reason != pgnotify.ClosedLocally {
			t.Errorf("%v", e.err)
		}
	}
	until(t, "OnDisconnect has ended", func() bool { return goroutinesOfPgnotify() == "" })
	until(t, "no poller is left", func() bool { return len(goroutinesOf("internal/fdwatch")) <= before })
}

// goroutinesOf returns the stacks of the goroutines that a package has started.
func goroutinesOf(pkg string) (found []string) {
	stacks := make([]byte, 1<<23)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(g, "created by github.com/pgnotify/pgnotify/"+pkg+".") {
			found = append(found, g)
		}
	}
	return found
}

// D8: the server has said 57P01 and FIN to an idle session of the pool. The reason
// is kept, the connection is closed although nobody uses the pool, and the next
// request gets another session.
func TestLastWordsInThePool(t *testing.T) {
	t.Parallel()
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprintf("active=%v", active), func(t *testing.T) {
			t.Parallel()
			now, closed := make(chan struct{}), make(chan struct{})
			untilClosed := func(c *pgfake.Session) error {
				defer close(closed)
				return pgfake.Drain()(c)
			}
			server := pgfake.Start(t,
				pgfake.Script{pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(pgfake.Error("FATAL", "57P01", "enough")),
					func(c *pgfake.Session) error { return c.Conn.(*net.TCPConn).CloseWrite() }, untilClosed},
				pgfake.Script{pgfake.Greet(), pgfake.Serve()})
			w := newObserved(t, server.DSN(), active)
			w.db.SetMaxOpenConns(1)
			w.Close()
			file := socketFile(t, w.session)
			close(now)
			wantLoss(t, "OnDisconnect", recv(t, w.ended).err, pgnotify.AdminShutdown, "57P01")
			recv(t, closed)
			if file != "" {
				until(t, "the descriptor is free", func() bool { return !isOpen(t, file) })
			}
			if stats := w.db.Stats(); stats.OpenConnections != 1 {
				t.Errorf("somebody used the pool: %+v", stats)
			}
			queryValue[string](t, w.db, "select 1")
			if server.Sessions() != 2 || len(w.ended) != 0 {
				t.Errorf("%d sessions, %d more calls", server.Sessions(), len(w.ended))
			}
		})
	}
}

// D8: the same with real sessions.
func TestTerminatedInThePool(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		w.db.SetMaxOpenConns(1)
		pid, file := w.pc.PID(), socketFile(t, w.session)
		w.Close()
		terminate(t, admin, pid)
		if e := recv(t, w.ended); e.pid != pid {
			t.Errorf("session %d, want %d", e.pid, pid)
		} else {
			wantLoss(t, "OnDisconnect", e.err, pgnotify.AdminShutdown, "57P01")
		}
		if file != "" {
			until(t, "the descriptor is free", func() bool { return !isOpen(t, file) })
		}
		if again := queryValue[uint32](t, w.db, "select pg_backend_pid()"); again == pid {
			t.Error("the same session")
		}
	})
}

// socketFile returns what the system calls the session's socket, which no other
// one is called later; "" where it does not tell.
func socketFile(t testing.TB, s *session) (name string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return ""
	}
	raw, err := s.pc.Socket().(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { name, err = os.Readlink(fmt.Sprint("/proc/self/fd/", fd)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return name
}

// isOpen reports whether a descriptor of this process is the given file.
func isOpen(t testing.TB, file string) bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name, _ := os.Readlink(link); name == file {
			return true
		}
	}
	return false
}

// D1, D2, D11, D12: everything at once. Whoever waits is told, and OnDisconnect
// is called once.
func TestWatchingInARace(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		for round := range 10 {
			w := newObserved()
			ctx := testContext(t)
			var group sync.WaitGroup
			start := make(chan struct{})
			together := func(f func()) {
				group.Go(func() {
					<-start
					f()
				})
			}
			together(func() { _ = execError(admin.ExecContext(ctx, "select pg_terminate_backend($1)", w.pc.PID())) })
			for range 3 {
				together(func() { recv(t, w.pc.Disconnected()) })
				together(func() {
					watched, stop := w.pc.WatchContext(ctx)
					defer stop()
					cause := context.Cause(contextDone(t, watched))
					if !pgnotify.IsDisconnect(cause) && !errors.Is(cause, pgnotify.ErrReleased) {
						t.Errorf("cause: %v", cause)
					}
				})
				together(func() {
					watched, stop := w.pc.WatchContext(ctx)
					stop()
					<-watched.Done()
				})
				together(func() {
					for w.pc.DisconnectErr() == nil {
						w.pc.TransactionStatus()
						_, _ = w.pc.SyscallConn()
						runtime.Gosched()
					}
				})
			}
			together(func() {
				for execError(w.ExecContext(ctx, "select 1")) == nil {
					runtime.Gosched()
				}
			})
			together(func() {
				for w.pc.DisconnectErr() == nil {
					_ = w.pc.Cancel(ctx)
				}
			})
			switch round % 4 {
			case 1:
				together(func() { w.Close() })
			case 2:
				together(func() { w.pc.Close() })
			case 3:
				together(func() { w.db.Close() })
			}
			close(start)
			group.Wait()
			recv(t, w.disconnected)
			if cause := context.Cause(contextDone(t, w.ctx)); !pgnotify.IsDisconnect(cause) && !errors.Is(cause, pgnotify.ErrReleased) {
				t.Errorf("cause: %v", cause)
			}
			w.Close()
			w.db.Close()
			if e := recv(t, w.ended); e.pid != w.pc.PID() {
				t.Errorf("session %d, want %d", e.pid, w.pc.PID())
			}
			if len(w.ended) != 0 {
				t.Errorf("told again: %v", (<-w.ended).err)
			}
		}
	})
}
