package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// record adds a handler that passes on what it gets. Up to 1000 fit in.
func record(t testing.TB, s *session) <-chan pgnotify.Notification {
	got := make(chan pgnotify.Notification, 1000)
	t.Cleanup(s.pc.AddNotificationHandler(func(n pgnotify.Notification) { got <- n }))
	return got
}

// eachLoggedSession is eachSession, with what the session logs.
func eachLoggedSession(t *testing.T, f func(t *testing.T, db *sql.DB, s *session, log *lockedBuffer)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				log := new(lockedBuffer)
				db := open(t, m.dsn, logTo(log))
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				f(t, db, s, log)
			})
		}
	}
}

// N1
func TestHandlersGetWhatTheirOwnSessionSends(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		channel := uniqueName("n1")
		s.listen(t, channel)
		var first, second []pgnotify.Notification
		removeFirst := s.pc.AddNotificationHandler(func(n pgnotify.Notification) { first = append(first, n) })
		removeSecond := s.pc.AddNotificationHandler(func(n pgnotify.Notification) { second = append(second, n) })
		pid := queryValue[uint32](t, s, "select pg_backend_pid()")
		send := func(payload string) pgnotify.Notification {
			handled := make(chan struct{})
			remove := s.pc.AddNotificationHandler(func(pgnotify.Notification) { close(handled) })
			defer remove()
			mustExec(t, s, "notify "+channel+", '"+payload+"'")
			recv(t, handled) // the handlers before it have run
			return pgnotify.Notification{Channel: channel, Payload: payload, PID: pid}
		}
		n1 := send("1")
		removeFirst()
		n2 := send("2")
		removeFirst() // does no harm
		n3 := send("3")
		removeSecond()
		send("4")
		if want := []pgnotify.Notification{n1}; !slices.Equal(first, want) {
			t.Errorf("the first handler got %+v, want %+v", first, want)
		}
		if want := []pgnotify.Notification{n1, n2, n3}; !slices.Equal(second, want) {
			t.Errorf("the second handler got %+v, want %+v", second, want)
		}
	})
}

// N15
func TestHandlerThatPanics(t *testing.T) {
	eachLoggedSession(t, func(t *testing.T, db *sql.DB, s *session, log *lockedBuffer) {
		channel := uniqueName("n15")
		s.listen(t, channel)
		before := record(t, s)
		s.pc.AddNotificationHandler(func(pgnotify.Notification) { panickingHandler() })
		s.pc.AddNotificationHandler(func(n pgnotify.Notification) { _ = []int{}[len(n.Payload)] })
		s.pc.AddNotificationHandler(nil)
		after := record(t, s)
		for i := range 3 {
			want := fmt.Sprint(i)
			if got := queryValue[int](t, s, "select $3::int from pg_notify($1, $2)", channel, want, i); got != i {
				t.Fatalf("the query gave %d, want %d", got, i)
			}
			notify(t, db, channel, want+"'")
			for _, payload := range []string{want, want + "'"} {
				for _, handled := range []<-chan pgnotify.Notification{before, after} {
					if n := recv(t, handled); n.Payload != payload {
						t.Fatalf("a handler got %q, want %q", n.Payload, payload)
					}
				}
			}
			wantPayloads(t, s.pending(t), want, want+"'")
		}
		if got := strings.Count(log.String(), `"level":"ERROR"`); got != 3*6 {
			t.Errorf("%d errors were logged, want 18", got)
		}
		for _, want := range []string{"out of order", "panickingHandler", "notifyhandler_test.go", "index out of range", "nil pointer"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not have %q:\n%.3000s", want, log)
			}
		}
	})
}

func panickingHandler() { panic("out of order") }

// N15: t.FailNow in a handler does that.
func TestHandlerThatEndsItsGoroutine(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		channel := uniqueName("n15")
		s.listen(t, channel)
		first := make(chan pgnotify.Notification, 10)
		s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
			first <- n
			runtime.Goexit()
		})
		for _, payload := range []string{"1", "2", "3"} {
			notify(t, s, channel, payload)
			select {
			case n := <-first:
				if n.Payload != payload {
					t.Errorf("got %q, want %q", n.Payload, payload)
				}
			case <-testContext(t).Done():
				t.Fatal("no handler runs any more")
			}
			s.wantNext(t, payload)
		}
	})
}

// N16
func TestHandlerThatRemovesItself(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n16")
		s.listen(t, channel)
		var once [3]func()
		var gone [3]chan string
		var stay [4]<-chan pgnotify.Notification
		stay[3] = record(t, s)
		for i := range once {
			gone[i] = make(chan string, 10)
			ready := make(chan struct{})
			once[i] = s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
				<-ready
				gone[i] <- n.Payload
				once[i]()
			})
			close(ready)
			stay[i] = record(t, s)
		}
		notifyAtOnce(t, db, channel, "1", "2")
		notify(t, s, channel, "3")
		for _, handled := range stay {
			for _, want := range []string{"1", "2", "3"} {
				if n := recv(t, handled); n.Payload != want {
					t.Fatalf("got %q, want %q", n.Payload, want)
				}
			}
		}
		for i := range gone {
			close(gone[i])
			if first, more := <-gone[i], len(gone[i]); first != "1" || more != 0 {
				t.Errorf("handler %d got %q and %d more", i, first, more)
			}
		}
	})
}

// N16
func TestHandlersChangeTheListWhileItRuns(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		channel := uniqueName("n16")
		s.listen(t, channel)
		var (
			got    []string
			remove func()
			added  func()
		)
		note := func(who string) func(pgnotify.Notification) {
			return func(n pgnotify.Notification) { got = append(got, who+n.Payload) }
		}
		s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
			switch n.Payload {
			case "1":
				remove() // the one after the next
				added = s.pc.AddNotificationHandler(note("added "))
			case "2":
				added()
			}
		})
		s.pc.AddNotificationHandler(note("next "))
		remove = s.pc.AddNotificationHandler(note("removed "))
		for _, payload := range []string{"1", "2", "3"} {
			handled := make(chan struct{})
			last := s.pc.AddNotificationHandler(func(pgnotify.Notification) { close(handled) })
			notify(t, s, channel, payload)
			recv(t, handled)
			last()
			s.settle(t)
		}
		// A list is walked as it was when the notification came.
		wantPayloads(t, got, "next 1", "removed 1", "next 2", "added 2", "next 3")
	})
}

// A handlerQuery is something that a handler may try on its own session.
type handlerQuery struct {
	name string
	run  func(ctx context.Context, s *session) error
}

var handlerQueries = []handlerQuery{
	{"exec", func(ctx context.Context, s *session) error {
		_, err := s.ExecContext(ctx, "select 1")
		return err
	}},
	{"query", func(ctx context.Context, s *session) error {
		var one int
		err := s.QueryRowContext(ctx, "select $1::int", 1).Scan(&one)
		if err == nil && one != 1 {
			err = fmt.Errorf("got %d", one)
		}
		return err
	}},
	{"ping", func(ctx context.Context, s *session) error { return s.PingContext(ctx) }},
	{"listen", func(ctx context.Context, s *session) error { return s.pc.Listen(ctx, "n17") }},
	{"unlisten", func(ctx context.Context, s *session) error { return s.pc.Unlisten(ctx, "n17") }},
	{"notify", func(ctx context.Context, s *session) error { return pgnotify.Notify(ctx, s, "n17_nobody", "") }},
}

// wantFromHandler checks the outcome of each of the queries, which are those
// that are allowed.
func wantFromHandler(t *testing.T, outcomes <-chan error, when string, allowed ...error) {
	t.Helper()
	deadline := testContext(t)
	for _, query := range handlerQueries {
		select {
		case err := <-outcomes:
			if !slices.ContainsFunc(allowed, func(want error) bool { return errors.Is(err, want) }) {
				t.Errorf("%s %s: got %v", query.name, when, err)
			}
		case <-deadline.Done():
			t.Fatalf("%s %s: the handler hangs", query.name, when)
		}
	}
}

// runQueries is what the handlers do.
func runQueries(ctx context.Context, s *session, outcomes chan<- error) {
	for _, query := range handlerQueries {
		outcomes <- query.run(ctx, s)
	}
}

// N17
func TestQueryFromANotificationHandler(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("n17")
		s.listen(t, channel)
		outcomes := make(chan error, 2*len(handlerQueries))
		s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
			if n.Channel == channel {
				runQueries(ctx, s, outcomes)
			}
		})
		notify(t, db, channel, "idle")
		wantFromHandler(t, outcomes, "while the session is idle", nil)
		notify(t, s, channel, "own")
		wantFromHandler(t, outcomes, "during a statement", nil, pgnotify.ErrBusy)
		s.settle(t)
		wantPayloads(t, s.pending(t), "idle", "own")
	})
}

// N17
func TestQueryFromANoticeHandler(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, outcomes := testContext(t), make(chan error, len(handlerQueries))
		var once sync.Once
		s.pc.AddNoticeHandler(func(*pgnotify.Notice) { once.Do(func() { runQueries(ctx, s, outcomes) }) })
		mustExec(t, s, raise("notice", "n17"))
		wantFromHandler(t, outcomes, "during a statement", nil, pgnotify.ErrBusy)
		s.settle(t)
	})
}

// N17
func TestQueryFromAHandlerWhileRowsAreOpen(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, outcomes := testContext(t), make(chan error, len(handlerQueries))
		var once sync.Once
		s.pc.AddNoticeHandler(func(*pgnotify.Notice) { once.Do(func() { runQueries(ctx, s, outcomes) }) })
		mustExec(t, s, "create or replace function pg_temp.note(i int) returns int language plpgsql as $$ begin raise notice '%', i; return i; end $$")
		rows, err := s.QueryContext(ctx, "select pg_temp.note(i) from generate_series(1, 100) i")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		wantFromHandler(t, outcomes, "while rows are open", pgnotify.ErrBusy)
		count := 0
		for rows.Next() {
			count++
		}
		if err := rows.Err(); err != nil || count != 100 {
			t.Errorf("got %d rows, %v", count, err)
		}
	})
}

// A handler that blocks holds up a statement for a moment only, however much it
// is behind.
func TestHandlerThatBlocks(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			const count, size = 16_000, 250 // more than waits for handlers, less than the backlog keeps
			log := new(lockedBuffer)
			db := open(t, m.dsn, logTo(log))
			s, channel := take(t, db), uniqueName("blocks")
			release, entered := make(chan struct{}), make(chan struct{}, 2*count)
			s.pc.AddNotificationHandler(func(pgnotify.Notification) { entered <- struct{}{}; <-release })
			s.listen(t, channel)
			notify(t, db, channel, "0")
			recv(t, entered)
			start := time.Now()
			mustExec(t, s, "select pg_notify($1, rpad(i::text, $3, 'x')) from generate_series(1, $2::int) i", channel, count, size)
			if d := time.Since(start); d > 15*time.Second {
				t.Errorf("the statement took %v", d)
			}
			if got := strings.Count(log.String(), `"level":"WARN"`); got != 1 {
				t.Errorf("%d warnings were logged, want 1: %s", got, log)
			}
			s.wantNext(t, "0")
			for i := range count {
				number := fmt.Sprint(i + 1)
				s.wantNext(t, number+strings.Repeat("x", size-len(number)))
			}
			close(release)
			notify(t, s, channel, "after")
			s.wantNext(t, "after")
		})
	}
}
