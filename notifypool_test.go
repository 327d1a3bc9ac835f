package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// A borrower takes the only session of a pool, one time after the other.
type borrower struct {
	db    *sql.DB // of one session
	other *sql.DB
}

func eachPoolOfOne(t *testing.T, f func(t *testing.T, p borrower)) {
	t.Helper()
	eachMode(t, func(t *testing.T, db *sql.DB) {
		db.SetMaxOpenConns(1)
		f(t, borrower{db, open(t, dsn(t))})
	})
}

// borrow runs f with the session and gives it back.
func (p borrower) borrow(t *testing.T, f func(s *session)) (pid uint32) {
	t.Helper()
	s := take(t, p.db)
	pid = s.pc.PID()
	if got := queryValue[uint32](t, s, "select pg_backend_pid()"); got != pid {
		t.Errorf("PID is %d, the server says %d", pid, got)
	}
	f(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return pid
}

// wantFresh checks that the next borrower finds nothing of those before.
func (p borrower) wantFresh(t *testing.T) (pid uint32) {
	t.Helper()
	return p.borrow(t, func(s *session) {
		if got := queryValue[string](t, s, "select coalesce(string_agg(c, ' '), '') from pg_listening_channels() c"); got != "" {
			t.Errorf("the next borrower listens to %q", got)
		}
		if got := s.pc.TransactionStatus(); got != pgnotify.TransactionIdle {
			t.Errorf("the next borrower is %v", got)
		}
	})
}

// N21
func TestRolledBackListen(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		channel, mark := uniqueName("n21"), uniqueName("n21")
		pid := p.borrow(t, func(s *session) {
			for _, plain := range []bool{false, true} {
				tx := mustBegin(t, s)
				if plain {
					mustExec(t, tx, "listen "+channel)
				} else {
					s.listen(t, channel)
				}
				if err := tx.Rollback(); err != nil {
					t.Fatal(err)
				}
			}
			notify(t, p.other, channel, "nobody listens")
			wantPayloads(t, s.pending(t))
		})
		if next := p.wantFresh(t); next != pid {
			t.Error("the session was not used again, though it did not listen")
		}
		p.borrow(t, func(s *session) {
			tx := mustBegin(t, s)
			s.listen(t, channel)
			tx.Rollback()
			s.listen(t, mark)
			notify(t, p.other, channel, "nobody listens")
			notify(t, p.other, mark, "mark")
			wantPayloads(t, s.pending(t), "mark")
		})
		if next := p.wantFresh(t); next == pid {
			t.Error("the session was used again, though it listened")
		}
	})
}

// N21
func TestRolledBackUnlisten(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		for i, unlisten := range []func(s *session, tx *sql.Tx, channel string){
			func(s *session, _ *sql.Tx, channel string) { s.unlisten(t, channel) },
			func(s *session, _ *sql.Tx, _ string) { s.unlisten(t) },
			func(_ *session, tx *sql.Tx, channel string) { mustExec(t, tx, "unlisten "+channel) },
			func(_ *session, tx *sql.Tx, _ string) { mustExec(t, tx, "unlisten *") },
		} {
			channel := uniqueName("n21")
			pid := p.borrow(t, func(s *session) {
				s.listen(t, channel)
				notify(t, p.other, channel, "before")
				s.settle(t)
				tx := mustBegin(t, s)
				unlisten(s, tx, channel)
				if err := tx.Rollback(); err != nil {
					t.Fatal(err)
				}
				notify(t, p.other, channel, "after")
				wantPayloads(t, s.pending(t), "before", "after")
			})
			if next := p.wantFresh(t); next == pid {
				t.Errorf("%d: the session was used again, though it listens", i)
			}
		}
	})
}

// N21, N22, N28: whatever was done, the next borrower does not listen.
func TestNobodyListensAfterAnySequence(t *testing.T) {
	statements := []string{"begin", "begin", "commit", "rollback", "commit and chain", "rollback and chain", "end", "abort",
		"savepoint a", "rollback to a", "release a", "listen ONE", "listen ONE", "listen two", "unlisten ONE", "unlisten *",
		"select 1", "select nothing", "begin; listen ONE; rollback", "listen ONE; select nothing", "listen ONE; rollback",
		"begin; listen ONE; commit; begin; unlisten ONE; rollback", "start transaction; listen ONE; select nothing"}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var sequences [][]string
	for range 60 {
		var list []string
		for range 2 + random.IntN(8) {
			list = append(list, strings.ReplaceAll(statements[random.IntN(len(statements))], "ONE", "one"))
		}
		sequences = append(sequences, list)
	}
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		reused := 0
		for _, sequence := range sequences {
			pid := p.borrow(t, func(s *session) {
				for _, statement := range sequence {
					s.ExecContext(testContext(t), statement) // many fail
				}
			})
			if p.wantFresh(t) == pid {
				reused++
			}
			if t.Failed() {
				t.Fatalf("seed %d: after %q", seed, sequence)
			}
		}
		t.Logf("%d of %d sessions were used again", reused, len(sequences))
	})
}

// N28
func TestNextBorrowerHearsNothing(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		channel := uniqueName("n28")
		for name, listen := range map[string]func(s *session){
			"Listen":              func(s *session) { s.listen(t, channel) },
			"LISTEN":              func(s *session) { mustExec(t, s, "listen "+channel) },
			"Listen and Unlisten": func(s *session) { s.listen(t, channel); s.unlisten(t) },
			"LISTEN and UNLISTEN": func(s *session) { mustExec(t, s, "listen "+channel+"; unlisten *") },
		} {
			var handled <-chan pgnotify.Notification
			var foreign *session
			first := p.borrow(t, func(s *session) {
				foreign, handled = s, record(t, s)
				listen(s)
				notify(t, s, channel, "not taken")
			})
			for len(handled) > 0 {
				recv(t, handled)
			}
			second := p.wantFresh(t)
			if second == first {
				t.Errorf("%s: the session was used again", name)
			}
			p.borrow(t, func(s *session) {
				own := record(t, s)
				s.listen(t, channel)
				notify(t, p.other, channel, "for the next")
				if n := recv(t, own); n.Payload != "for the next" {
					t.Errorf("%s: got %+v", name, n)
				}
				wantPayloads(t, s.pending(t), "for the next")
				if len(handled) > 0 {
					t.Errorf("%s: the previous borrower's handler got %+v", name, <-handled)
				}
				wantEnded(t, foreign, pgnotify.ErrReleased)
			})
		}
	})
}

// N28: a session that has only handlers is used again, without them.
func TestNextBorrowerHasNoForeignHandlers(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		const notice = "do $$ begin raise notice 'n28'; end $$"
		var foreign int
		var remove []func()
		var old *session
		pid := p.borrow(t, func(s *session) {
			old = s
			remove = append(remove, s.pc.AddNoticeHandler(func(*pgnotify.Notice) { foreign++ }),
				s.pc.AddNotificationHandler(func(pgnotify.Notification) { foreign++ }))
			mustExec(t, s, notice)
		})
		if foreign != 1 {
			t.Fatalf("the handler was called %d times", foreign)
		}
		next := p.borrow(t, func(s *session) {
			old.pc.AddNoticeHandler(func(*pgnotify.Notice) { foreign++ })
			old.pc.AddNotificationHandler(func(pgnotify.Notification) { foreign++ })
			own := 0
			s.pc.AddNoticeHandler(func(*pgnotify.Notice) { own++ })
			mustExec(t, s, notice)
			for _, f := range remove {
				f() // does no harm to the new ones
			}
			mustExec(t, s, notice)
			handled, channel := record(t, s), uniqueName("n28")
			s.listen(t, channel)
			notify(t, s, channel, "1")
			if n := recv(t, handled); n.Payload != "1" {
				t.Errorf("got %+v", n)
			}
			if foreign != 1 || own != 2 {
				t.Errorf("the previous borrower's handler was called %d times, the own %d times", foreign-1, own)
			}
		})
		if next != pid {
			t.Error("the session was not used again")
		}
	})
}

// N28: handlers that are added and removed as the session is given back.
func TestHandlersChangeAsTheSessionIsReturned(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		type call struct{ borrower, notice string }
		calls := make(chan call, 10000)
		add := func(s *session, borrower string) (remove func()) {
			return s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { calls <- call{borrower, n.Message} })
		}
		for i := range 300 {
			var changing sync.WaitGroup
			name := fmt.Sprint(i)
			p.borrow(t, func(s *session) {
				remove := make([]func(), 20)
				for j := range remove {
					remove[j] = add(s, name)
				}
				for _, r := range remove {
					changing.Go(r)
				}
				for range 20 {
					changing.Go(func() { add(s, name) })
				}
			})
			changing.Wait()
			p.borrow(t, func(s *session) {
				mustExec(t, s, "do $$ begin raise notice 'n28'; end $$")
			})
			select {
			case c := <-calls:
				t.Fatalf("the handler of borrower %s got %q of the next", c.borrower, c.notice)
			default:
			}
		}
	})
}

// Promise 7: LISTEN that no command tag tells of is found out by what it brings.
func TestListenWithinAFunctionIsNotHandedOn(t *testing.T) {
	t.Parallel()
	var socket atomic.Pointer[net.TCPConn]
	db, channel := open(t, dsn(t), func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				socket.Store(conn.(*net.TCPConn))
			}
			return conn, err
		}
	}), uniqueName("do")
	p := borrower{db, open(t, dsn(t))}
	db.SetMaxOpenConns(1)
	pid := p.borrow(t, func(s *session) {
		mustExec(t, s, "do $$ begin execute 'listen "+channel+"'; end $$")
	})
	notify(t, p.other, channel, "1")
	raw, err := socket.Load().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for ctx := testContext(t); !fdwatch.Readable(raw); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("the notification does not show: ", ctx.Err())
		}
	}
	if next := p.wantFresh(t); next == pid {
		t.Error("the session was used again")
	}
}

// Promise 7: what waits for a slow handler is not for the next borrower's.
func TestQueuedNoticesAreNotHandedOn(t *testing.T) {
	eachPoolOfOne(t, func(t *testing.T, p borrower) {
		release, begun := make(chan struct{}), make(chan struct{}, 10)
		pid := p.borrow(t, func(s *session) {
			s.pc.AddNoticeHandler(func(*pgnotify.Notice) { begun <- struct{}{}; <-release })
			mustExec(t, s, raise("notice", "1")+";"+raise("notice", "2"))
		})
		<-begun
		next := p.borrow(t, func(s *session) {
			got := make(chan string, 10)
			s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { got <- n.Message })
			close(release)
			mustExec(t, s, raise("notice", "own"))
			if first := recv(t, got); first != "own" {
				t.Errorf("the next borrower heard %q", first)
			}
		})
		if next != pid {
			t.Error("the session was not used again")
		}
	})
}
