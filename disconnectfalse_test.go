package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A holdback is the end of a server that can keep the rest of what it says for
// later, so that a TLS record arrives in part.
type holdback struct {
	net.Conn
	mu   sync.Mutex // guards the fields below
	keep int        // bytes of the next write
	kept []byte
}

func (h *holdback) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.Conn.Write(h.kept); err != nil {
		return 0, err
	}
	cut := len(p) - min(h.keep, len(p))
	h.keep, h.kept = 0, append([]byte(nil), p[cut:]...)
	if _, err := h.Conn.Write(p[:cut]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sayInPart has a script send all but the last bytes; they come before what it
// sends next. The connection must be a holdback, from holdBack.
func sayInPart(h *holdback, keep int, frames ...[]byte) pgfake.Step {
	return func(c *pgfake.Session) error {
		h.mu.Lock()
		h.keep = keep
		h.mu.Unlock()
		return pgfake.Send(frames...)(c)
	}
}

func (h *holdback) step(c *pgfake.Session) error {
	h.Conn, c.Conn = c.Conn, h
	return nil
}

// asides is what a server may say to a session that asks nothing.
var asides = map[string][]byte{
	"ParameterStatus": pgfake.Parameter("TimeZone", "Europe/Zurich"),
	"notice":          pgfake.Notice("WARNING", "01000", "the disk is getting full"),
	"many":            manyAsides(),
}

func manyAsides() (all []byte) {
	for i := range 1000 {
		all = append(all, pgfake.Parameter("TimeZone", fmt.Sprint("UTC", i))...)
		all = append(all, pgfake.Notice("NOTICE", "00000", fmt.Sprint(i))...)
	}
	return all
}

// D4: readable is not dead. A session in the pool to which the server has said
// something is used again, over plain connections and TLS, whose records may
// arrive in part. Only half a message may cost the session, without an error:
// what is unread is not for the next borrower.
func TestReadableIsNotDead(t *testing.T) {
	t.Parallel()
	tls := pgfake.StartTLS(fakeTLS(t, nil))
	for name, words := range asides {
		for _, secure := range []bool{false, true} {
			for _, keep := range []int{0, 3} {
				for _, active := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/tls=%v/keep=%d/active=%v", name, secure, keep, active), func(t *testing.T) {
						t.Parallel()
						h, now := new(holdback), make(chan struct{})
						script, dsnEnd := pgfake.Script{h.step}, ""
						if secure {
							script, dsnEnd = append(script, tls), " sslmode=require"
						}
						script = append(script, pgfake.Greet(), pgfake.WaitFor(now), sayInPart(h, keep, words), pgfake.Serve())
						server := pgfake.Start(t, script, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
						w := newObserved(t, server.DSN()+dsnEnd, active)
						w.db.SetMaxOpenConns(1)
						w.Close()
						close(now)
						if active {
							until(t, "the parameter has come", func() bool {
								_, ok := w.pc.ParameterStatus("TimeZone")
								return ok || name == "notice" || keep > 0
							})
						} else {
							awaitArrival(t, w.session)
						}
						for range 3 {
							queryValue[string](t, w.db, "select 1")
							mustExec(t, w.db, "select 1")
							again := take(t, w.db)
							if err := again.pc.DisconnectErr(); err != nil {
								t.Error(err)
							}
							again.Close()
						}
						if keep > 0 && !secure && server.Sessions() == 2 {
							wantLoss(t, "OnDisconnect", recv(t, w.ended).err, pgnotify.ClosedLocally, "")
						} else if server.Sessions() != 1 || len(w.ended) != 0 {
							t.Errorf("%d sessions", server.Sessions())
						}
					})
				}
			}
		}
	}
}

// D4: the same for who waits for the end of the session. Notifications are among
// what comes: a session of the pool that hears some is closed for another reason.
func TestReadableIsNotTheEnd(t *testing.T) {
	t.Parallel()
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprintf("active=%v", active), func(t *testing.T) {
			t.Parallel()
			all := append(manyAsides(), pgfake.Notification(1, "jobs", "one")...)
			now, end := make(chan struct{}), make(chan struct{})
			server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.WaitFor(now), pgfake.Send(all), pgfake.Await('Q'),
				pgfake.Send(pgfake.Complete("SELECT 1"), pgfake.Ready('I')), pgfake.WaitFor(end), pgfake.Send(pgfake.Error("FATAL", "57P01", "enough"))})
			w := newObserved(t, server.DSN(), active)
			close(now)
			if !active {
				awaitArrival(t, w.session)
			}
			w.wantAlive(t)
			mustExec(t, w, "select 1")
			w.wantAlive(t)
			close(end)
			w.wantLost(t, pgnotify.AdminShutdown, "57P01")
		})
	}
}

// D4: a server with real sessions in a pool is reloaded, and tells them of a
// parameter.
func TestReloadIsNotTheEnd(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	admin := open(t, s.DSN())
	for i, m := range s.modes() {
		for _, active := range []bool{false, true} {
			w := newObserved(t, m.dsn, active)
			w.db.SetMaxOpenConns(1)
			pid := w.pc.PID()
			w.Close()
			zone := fmt.Sprintf("Etc/GMT-%d", 1+2*i+map[bool]int{true: 1}[active])
			mustExec(t, admin, "alter system set timezone = '"+zone+"'")
			mustExec(t, admin, "select pg_reload_conf()")
			until(t, "the reload has reached the session", func() bool {
				again := take(t, w.db)
				defer again.Close()
				if again.pc.PID() != pid {
					t.Fatalf("session %d became %d", pid, again.pc.PID())
				}
				got := queryValue[string](t, again, "show timezone")
				return got == zone
			})
			again := take(t, w.db)
			if got, _ := again.pc.ParameterStatus("TimeZone"); got != zone || len(w.ended) != 0 {
				t.Errorf("TimeZone is %q, want %q", got, zone)
			}
		}
	}
}

// D5: what a deadline or a cancelled context ended was the statement. The session
// is there, and its end is told when it comes.
func TestDeadlineIsNoAlarm(t *testing.T) {
	eachObserved(t, func(t *testing.T, admin *sql.DB, newObserved func(...func(*pgnotify.Config)) *observed) {
		w := newObserved()
		for i := range 5 {
			expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
			if err := execError(w.ExecContext(expired, "select 1")); !errors.Is(err, context.DeadlineExceeded) || pgnotify.IsDisconnect(err) {
				t.Errorf("an expired context: %v", err)
			}
			cancel()
			for name, ctx := range map[string]func() (context.Context, context.CancelFunc){
				"deadline": func() (context.Context, context.CancelFunc) {
					return context.WithTimeout(testContext(t), 20*time.Millisecond)
				},
				"cancelled": func() (context.Context, context.CancelFunc) {
					ctx, cancel := context.WithCancel(testContext(t))
					time.AfterFunc(20*time.Millisecond, cancel)
					return ctx, cancel
				},
				"rows": func() (context.Context, context.CancelFunc) {
					return context.WithTimeout(testContext(t), 20*time.Millisecond)
				},
			} {
				ctx, cancel := ctx()
				var err error
				if name == "rows" {
					err = readRows(w.QueryContext(ctx, "select pg_sleep(0.001) from generate_series(1, 60000)"))
				} else {
					err = execError(w.ExecContext(ctx, "select pg_sleep(60)"))
				}
				cancel()
				if err == nil || pgnotify.IsDisconnect(err) {
					t.Errorf("%s: %v", name, err)
				}
				w.wantAlive(t)
			}
			if got := queryValue[uint32](t, w, "select pg_backend_pid()"); got != w.pc.PID() {
				t.Errorf("round %d: another session", i)
			}
		}
		w.wantAlive(t)
		terminate(t, admin, w.pc.PID())
		w.wantLost(t, pgnotify.AdminShutdown, "57P01")
	})
}

// D6: descriptors are used again and again while events of those that had them
// before are under way. Nobody is told of the end of another.
func TestUsedDescriptorsRaiseNoAlarm(t *testing.T) {
	t.Parallel()
	const stayers, workers, rounds = 20, 4, 50
	steady := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	fleeting := pgfake.Start(t, pgfake.Script{pgfake.Greet()}) // and the end
	ended := make(chan farewell, 10_000)
	db := open(t, steady.DSN(), toldTo(ended))
	brief := open(t, fleeting.DSN())
	var staying []*session
	for range stayers {
		staying = append(staying, take(t, db))
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				gone, err := brief.Conn(testContext(t))
				if err != nil {
					continue // it ended before it was there
				}
				gone.Raw(func(dc any) error { return dc.(*pgnotify.Conn).Close() })
				gone.Close()
				s, err := db.Conn(testContext(t)) // has the same descriptor, or another's
				if err != nil {
					t.Error(err)
					return
				}
				pc, err := pgnotify.FromConn(s)
				if err != nil {
					t.Error(err)
					return
				}
				ctx, stop := pc.WatchContext(context.Background())
				if _, err := s.ExecContext(testContext(t), "select 1"); err != nil || pc.DisconnectErr() != nil || ctx.Err() != nil {
					t.Errorf("%v, %v, %v", err, pc.DisconnectErr(), context.Cause(ctx))
				}
				stop()
				pc.Close()
				s.Close()
			}
		})
	}
	group.Wait()
	for range workers * rounds { // each of them was closed by us
		e := recv(t, ended)
		if e.err.Reason != pgnotify.ClosedLocally {
			t.Errorf("told: %v", e.err)
		}
		if len(ended) == 0 && t.Failed() {
			break
		}
	}
	for _, s := range staying {
		if err := s.pc.DisconnectErr(); err != nil || s.pc.TransactionStatus() != pgnotify.TransactionIdle {
			t.Errorf("a session that stayed: %v", err)
		}
		mustExec(t, s, "select 1")
	}
	if len(ended) != 0 {
		t.Errorf("told: %v", (<-ended).err)
	}
}
