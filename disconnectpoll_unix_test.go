//go:build unix

package pgnotify_test

import (
	"database/sql"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// poll is a program's own poller: it returns what is to be seen of a socket, and
// an error when that is closed. It waits for a moment at most: a socket is not
// closed while somebody has it.
func poll(socket syscall.RawConn) (events int16, err error) {
	fds := make([]unix.PollFd, 1)
	var failed error
	err = socket.Control(func(fd uintptr) {
		fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		_, failed = unix.Poll(fds, 10)
	})
	if err == nil && failed != nil && failed != unix.EINTR {
		err = failed
	}
	return fds[0].Revents, err
}

// awaitPoll polls until there is something to see.
func awaitPoll(t testing.TB, socket syscall.RawConn) (events int16, err error) {
	t.Helper()
	until(t, "an event", func() bool {
		events, err = poll(socket)
		return events != 0 || err != nil
	})
	return events, err
}

func mustSyscallConn(t testing.TB, s *session) syscall.RawConn {
	t.Helper()
	socket, err := s.pc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// D17: a poller of the program sees what comes on an idle session, over all ways
// and TLS, while the session goes on to work; and its end.
func TestPollerOfTheProgram(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		script, dsnEnd := pgfake.Script{}, ""
		if secure {
			script, dsnEnd = append(script, pgfake.StartTLS(fakeTLS(t, nil))), " sslmode=require"
		}
		now, end := make(chan struct{}), make(chan struct{})
		server := pgfake.Start(t, append(script, pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(pgfake.Notice("NOTICE", "00000", "now")),
			pgfake.Await('Q'), pgfake.Send(pgfake.Complete("SELECT 1"), pgfake.Ready('I')), pgfake.WaitFor(end)))
		w := newObserved(t, server.DSN()+dsnEnd, false)
		heard := messages(w.session)
		socket := mustSyscallConn(t, w.session)
		if events, err := poll(socket); events != 0 || err != nil {
			t.Errorf("at first: %#x, %v", events, err)
		}
		close(now)
		if events, err := awaitPoll(t, socket); events != unix.POLLIN || err != nil {
			t.Errorf("a notice: %#x, %v", events, err)
		}
		w.wantAlive(t)
		mustExec(t, w, "select 1")
		if got := heard.all(); len(got) != 1 || got[0] != "now" {
			t.Errorf("heard %q", got)
		}
		if events, err := poll(socket); events != 0 || err != nil {
			t.Errorf("when it was read: %#x, %v", events, err)
		}
		close(end)
		if events, err := awaitPoll(t, socket); err == nil && events&unix.POLLIN == 0 || err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("the end: %#x, %v", events, err)
		}
		w.wantLost(t, pgnotify.PeerClosed, "")
	}
}

// D17: the end of a real session, in each way. The RawConn fails then, however
// the session ended.
func TestPollerSeesTheEnd(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		socket := mustSyscallConn(t, w.session)
		polled := async(t, func() error {
			for {
				if events, err := poll(socket); events != 0 || err != nil {
					return err
				}
			}
		})
		terminate(t, admin, w.pc.PID())
		if err := recv(t, polled); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("the poller: %v", err)
		}
		w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		wantClosed(t, socket)
		_, err := w.pc.SyscallConn()
		wantLoss(t, "SyscallConn", err, pgnotify.AdminShutdown, "57P01")

		w = newObserved()
		socket = mustSyscallConn(t, w.session)
		w.Close() // to the pool
		if _, err := w.pc.SyscallConn(); !errors.Is(err, pgnotify.ErrReleased) {
			t.Errorf("SyscallConn of a session that was returned: %v", err)
		}
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
		wantClosed(t, socket)

		w = newObserved()
		socket = mustSyscallConn(t, w.session)
		w.pc.Close()
		wantClosed(t, socket)
		_, err = w.pc.SyscallConn()
		wantLocalLoss(t, err)
	})
}

// wantLocalLoss checks the error of a session that the program closed.
func wantLocalLoss(t testing.TB, err error) {
	t.Helper()
	if lost := wantLoss(t, "SyscallConn", err, pgnotify.ClosedLocally, ""); !errors.Is(lost, net.ErrClosed) {
		t.Errorf("SyscallConn: %v", err)
	}
}

// wantClosed waits until a RawConn fails: the descriptor is closed after the loss
// was told.
func wantClosed(t testing.TB, socket syscall.RawConn) {
	t.Helper()
	var err error
	until(t, "the socket is closed", func() bool {
		err = socket.Control(func(uintptr) {})
		return err != nil
	})
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("the RawConn: %v", err)
	}
}

// D17: a poller of the program that looks at a session all the time takes nothing
// from its queries, nor from its watch.
func TestPollerBesideQueries(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		socket := mustSyscallConn(t, w.session)
		polled := async(t, func() error {
			for {
				if _, err := poll(socket); err != nil {
					return err
				}
			}
		})
		for start := time.Now(); time.Since(start) < 200*time.Millisecond; {
			if got := queryValue[uint32](t, w, "select pg_backend_pid()"); got != w.pc.PID() {
				t.Fatal("another session")
			}
		}
		terminate(t, admin, w.pc.PID())
		w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		if err := recv(t, polled); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the poller: %v", err)
		}
	})
}
