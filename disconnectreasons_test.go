package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// An end is a real cause for the end of a session.
type end struct {
	reason pgnotify.DisconnectReason
	code   pqerror.Code // "" where the server says nothing
	cause  func(t *testing.T, admin *sql.DB, w *observed)
}

// ends are those that one session can have without the others.
var ends = map[string]end{
	"terminated": {pgnotify.AdminShutdown, "57P01", func(t *testing.T, admin *sql.DB, w *observed) {
		terminate(t, admin, w.pc.PID())
	}},
	"closed by the program": {pgnotify.ClosedLocally, "", func(_ *testing.T, _ *sql.DB, w *observed) {
		w.pc.Close()
	}},
}

// D3: idle and busy sessions tell the reason, the same in each way.
func TestReasons(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		for name, e := range ends {
			t.Run(name, func(t *testing.T) {
				e.whileIdle(t, admin, newObserved())
				e.whileBusy(t, admin, newObserved())
			})
		}
	})
}

func (e end) whileIdle(t *testing.T, admin *sql.DB, w *observed) {
	t.Helper()
	e.cause(t, admin, w)
	w.wantLost(t, e.reason, e.code)
	err := execError(w.ExecContext(testContext(t), "select 1"))
	if lost := wantLoss(t, "the next statement", err, e.reason, e.code); lost.Sent {
		t.Errorf("sent: %v", err)
	}
}

func (e end) whileBusy(t *testing.T, admin *sql.DB, w *observed) {
	t.Helper()
	defer func() { // a server that was not told goes on
		mustExec(t, admin, "select pg_terminate_backend($1)", w.pc.PID())
	}()
	done := async(t, func() error { return execError(w.ExecContext(testContext(t), "select pg_sleep(60)")) })
	untilWaiting(t, admin, w.pc.PID(), "PgSleep")
	e.cause(t, admin, w)
	err := recv(t, done)
	if lost := wantLoss(t, "the statement", err, e.reason, e.code); !lost.Sent {
		t.Errorf("not sent: %v", err)
	}
	w.wantLost(t, e.reason, e.code)
}

// D3: the network ends the connection and the server has no say.
func TestReasonsOfTheNetwork(t *testing.T) {
	t.Parallel()
	admin := open(t, dsn(t))
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			for _, reset := range []bool{false, true} {
				if reset && m.name == "unix" {
					continue // has no reset
				}
				t.Run(fmt.Sprintf("%s/active=%v/reset=%v", m.name, active, reset), func(t *testing.T) {
					t.Parallel()
					proxy, option := behindProxy(t, m)
					e := end{pgnotify.PeerClosed, "", func(*testing.T, *sql.DB, *observed) { proxy.Cut(reset) }}
					if reset {
						e.reason = pgnotify.Reset
					}
					e.whileIdle(t, admin, newObserved(t, m.dsn, active, option))
					e.whileBusy(t, admin, newObserved(t, m.dsn, active, option))
				})
			}
		}
	}
}

// D3: timeouts that are set on the server.
func TestReasonsOfTheServersTimeouts(t *testing.T) {
	eachObserved(t, func(t *testing.T, _ *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		t.Run("idle_session_timeout", func(t *testing.T) {
			needsServer(t, 14, "idle_session_timeout")
			w := newObserved()
			mustExec(t, w, "set idle_session_timeout = '20ms'")
			w.wantLost(t, pgnotify.IdleTimeout, "57P05")
		})
		t.Run("idle_in_transaction_session_timeout", func(t *testing.T) {
			w := newObserved()
			tx := mustBegin(t, w)
			mustExec(t, tx, "set local idle_in_transaction_session_timeout = '20ms'")
			w.wantLost(t, pgnotify.IdleTimeout, "25P03")
			if lost := wantLoss(t, "COMMIT", tx.Commit(), pgnotify.IdleTimeout, "25P03"); lost.Sent {
				t.Error("COMMIT was sent")
			}
		})
		t.Run("transaction_timeout", func(t *testing.T) {
			needsServer(t, 17, "transaction_timeout")
			for _, statement := range []string{"select 1", "select pg_sleep(60)"} { // idle, busy
				w := newObserved()
				tx := mustBegin(t, w)
				mustExec(t, tx, "set local transaction_timeout = '20ms'")
				_, err := tx.ExecContext(testContext(t), statement)
				if err != nil {
					wantLoss(t, "the statement", err, pgnotify.IdleTimeout, "25P04")
				}
				w.wantLost(t, pgnotify.IdleTimeout, "25P04")
			}
		})
	})
}

// D3: what the server says last, for what a test's server cannot be brought to do.
func TestReasonsOfTheServer(t *testing.T) {
	t.Parallel()
	fatal := func(code string) []byte { return pgfake.Error("FATAL", code, "the end") }
	for name, c := range map[string]struct {
		words  []byte
		reason pgnotify.DisconnectReason
		code   pqerror.Code
	}{
		"57P01":            {fatal("57P01"), pgnotify.AdminShutdown, "57P01"},
		"57P02":            {fatal("57P02"), pgnotify.CrashShutdown, "57P02"},
		"57P05":            {fatal("57P05"), pgnotify.IdleTimeout, "57P05"},
		"25P03":            {fatal("25P03"), pgnotify.IdleTimeout, "25P03"},
		"25P04":            {fatal("25P04"), pgnotify.IdleTimeout, "25P04"},
		"08P01":            {fatal("08P01"), pgnotify.ServerError, "08P01"},
		"two":              {slices.Concat(fatal("57P01"), pgfake.Error("FATAL", "08P01", "server conn crashed?")), pgnotify.AdminShutdown, "57P01"}, // PgBouncer
		"a crash and more": {slices.Concat(pgfake.Notice("WARNING", "57P02", "crash"), fatal("08P01")), pgnotify.CrashShutdown, "57P02"},
		"nothing":          {nil, pgnotify.PeerClosed, ""},
		"half a message":   {fatal("57P01")[:20], pgnotify.PeerClosed, ""},
		"no message":       {[]byte("HTTP/1.1 400 Bad Request\r\n"), pgnotify.ProtocolError, ""},
		"a bad length":     {pgfake.RawFrame('Z', 3, "I"), pgnotify.ProtocolError, ""},
		"an empty FATAL":   {pgfake.Frame('E', "\x00"), pgnotify.ProtocolError, ""},
		"words in French":  {pgfake.Frame('E', "SFATAL \x00VFATAL\x00C57P01\x00Mfin de la connexion\x00\x00"), pgnotify.AdminShutdown, "57P01"},
	} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				now := make(chan struct{})
				idle := pgfake.Script{pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(c.words)}
				busy := pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(c.words)}
				server := pgfake.Start(t, idle, busy)
				w := newObserved(t, server.DSN(), active)
				close(now)
				w.wantLost(t, c.reason, c.code)

				w = newObserved(t, server.DSN(), active)
				err := execError(w.ExecContext(testContext(t), "select 1"))
				if lost := wantLoss(t, "the statement", err, c.reason, c.code); !lost.Sent {
					t.Errorf("not sent: %v", err)
				}
				w.wantLost(t, c.reason, c.code)
			})
		}
	}
}

// D3: what comes on an idle session is not the protocol's, and the connection
// stays open. Who reads finds it: an active session at once, a passive one at the
// checkout, or at the next statement.
func TestGarbageOnAnIdleSession(t *testing.T) {
	t.Parallel()
	for name, words := range map[string][]byte{
		"no message":           []byte("HTTP/1.1 400 Bad Request\r\n"),
		"the end of an answer": pgfake.Ready('I'),
		"a row":                pgfake.Row("1"),
		"a bad notification":   pgfake.Frame('A', "\x00\x00\x00\x01no terminator"),
		"a negative length":    pgfake.RawFrame('N', 1<<31, ""),
		"an error of nothing":  pgfake.RawFrame('E', 4, ""),
		"a bad parameter":      pgfake.Frame('S', "TimeZone"),
		"a length of 0":        []byte{'Z', 0, 0, 0, 0},
	} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", name, active), func(t *testing.T) {
				t.Parallel()
				now := make(chan struct{})
				garbage := pgfake.Script{pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(words), pgfake.Drain()}
				server := pgfake.Start(t, garbage, garbage, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
				held, pooled := newObserved(t, server.DSN(), active), newObserved(t, server.DSN(), active)
				if err := pooled.Close(); err != nil {
					t.Fatal(err)
				}
				returned := time.Now()
				close(now)
				if active {
					held.wantLost(t, pgnotify.ProtocolError, "")
					until(t, "the other is lost", func() bool { return pooled.pc.TransactionStatus() == pgnotify.TransactionUnknown })
				} else {
					awaitArrival(t, held.session)
					awaitArrival(t, pooled.session)
					held.wantAlive(t)
					err := execError(held.ExecContext(testContext(t), "select 1"))
					wantLoss(t, "the next statement", err, pgnotify.ProtocolError, "")
					held.wantLost(t, pgnotify.ProtocolError, "")
				}
				until(t, "a checkout looks again", func() bool { return time.Since(returned) > 10*time.Millisecond })
				queryValue[string](t, pooled.db, "select 1")
				wantLoss(t, "OnDisconnect", recv(t, pooled.ended).err, pgnotify.ProtocolError, "")
			})
		}
	}
}

// D3: the end of an answer that nobody asked for ends the first statement before
// its answer is there. No other statement may get that.
func TestEndOfAnAnswerThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprintf("active=%v", active), func(t *testing.T) {
			t.Parallel()
			now, late := make(chan struct{}), make(chan struct{})
			answer := func(value string) pgfake.Step {
				return pgfake.Send(pgfake.Columns("answer"), pgfake.Row(value), pgfake.Complete("SELECT 1"), pgfake.Ready('I'))
			}
			server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(pgfake.Ready('I')),
				pgfake.Await('Q'), pgfake.WaitFor(late), answer("first"), pgfake.Await('Q'), answer("second"), pgfake.Drain()})
			s := take(t, open(t, server.DSN()))
			if active {
				s.pc.Activate()
			}
			close(now)
			if active {
				recv(t, s.pc.Disconnected())
			} else {
				awaitArrival(t, s)
			}
			first := scan(s.QueryRowContext(testContext(t), "select 'first'"))
			if first == nil {
				t.Error("an answer that was not there")
			}
			close(late)
			var got string
			if err := s.QueryRowContext(testContext(t), "select 'second'").Scan(&got); err == nil && got != "second" {
				t.Errorf("the second statement got %q; the first: %v", got, first)
			}
		})
	}
}

// D3: a cancelled statement does not end in time.
func TestReasonIsACancelTimeout(t *testing.T) {
	t.Parallel()
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprintf("active=%v", active), func(t *testing.T) {
			t.Parallel()
			server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Hang()})
			w := newObserved(t, server.DSN(), active, cancelTimeout(50*time.Millisecond))
			ctx, cancel := context.WithTimeout(testContext(t), 10*time.Millisecond)
			defer cancel()
			_, err := w.ExecContext(ctx, "select 1")
			if lost := wantLoss(t, "the statement", err, pgnotify.CancelTimeout, ""); !lost.Sent {
				t.Errorf("not sent: %v", err)
			}
			w.wantLost(t, pgnotify.CancelTimeout, "")
		})
	}
}

// A reason is told in words, and says nothing twice.
func TestReasonsInWords(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for r := pgnotify.PeerClosed; r <= pgnotify.ServerError; r++ {
		text := r.String()
		if text == "" || seen[text] || strings.HasPrefix(text, "DisconnectReason(") {
			t.Errorf("%d: %q", int(r), text)
		}
		seen[text] = true
		err := &pgnotify.DisconnectError{Reason: r, Err: net.ErrClosed, Sent: true}
		if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), net.ErrClosed.Error()) {
			t.Errorf("%v", err)
		}
	}
	for _, r := range []pgnotify.DisconnectReason{-1, pgnotify.ServerError + 1} {
		if want := fmt.Sprintf("DisconnectReason(%d)", int(r)); r.String() != want {
			t.Errorf("got %q, want %q", r.String(), want)
		}
	}
}
