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

	"github.com/lib/pq"

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
			<-handled // the handlers before it have run
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
		s.pc.AddNotificationHandler(func(pgnotify.Notification) { var m map[int]int; m[0]++ })
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
					if n := <-handled; n.Payload != payload {
						t.Fatalf("a handler got %q, want %q", n.Payload, payload)
					}
				}
			}
			wantPayloads(t, s.pending(t), want, want+"'")
		}
		if got := strings.Count(log.String(), `"level":"ERROR"`); got != 3*6 {
			t.Errorf("%d errors were logged, want 18", got)
		}
		for _, want := range []string{"out of order", "panickingHandler", "notifyhandler_test.go", "nil map", "nil pointer"} {
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
				if n := <-handled; n.Payload != want {
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
			<-handled
			last()
			s.settle(t)
		}
		// A list is walked as it was when the notification came.
		wantPayloads(t, got, "next 1", "removed 1", "next 2", "added 2", "next 3")
	})
}

// queriesInHandlers are what a handler may try on its own session.
var queriesInHandlers = map[string]func(ctx context.Context, s *session) error{
	"exec": func(ctx context.Context, s *session) error { _, err := s.ExecContext(ctx, "select 1"); return err },
	"query": func(ctx context.Context, s *session) error {
		var one int
		err := s.QueryRowContext(ctx, "select $1::int", 1).Scan(&one)
		if err == nil && one != 1 {
			err = fmt.Errorf("got %d", one)
		}
		return err
	},
	"ping": func(ctx context.Context, s *session) error {
		return s.Raw(func(dc any) error { return dc.(*pgnotify.Conn).Ping(ctx) })
	},
	"listen":   func(ctx context.Context, s *session) error { return s.pc.Listen(ctx, "n17") },
	"unlisten": func(ctx context.Context, s *session) error { return s.pc.Unlisten(ctx, "n17") },
	"notify":   func(ctx context.Context, s *session) error { return pgnotify.Notify(ctx, s, "n17_nobody", "") },
}

// N17
func TestQueryFromANotificationHandler(t *testing.T) {
	for name, query := range queriesInHandlers {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
				ctx, channel := testContext(t), uniqueName("n17")
				s.listen(t, channel)
				errs := make(chan error)
				s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
					if n.Channel == channel {
						errs <- query(ctx, s)
					}
				})
				notify(t, db, channel, "idle")
				if err := <-errs; err != nil {
					t.Errorf("while the session is idle: %v", err)
				}
				sent := make(chan error)
				go func() { sent <- pgnotify.Notify(ctx, s, channel, "own") }()
				if err := <-errs; err != nil && !errors.Is(err, pgnotify.ErrBusy) {
					t.Errorf("during a statement: %v", err)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
				s.settle(t)
			})
		})
	}
}

// N17
func TestQueryFromANoticeHandler(t *testing.T) {
	for name, query := range queriesInHandlers {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
				ctx := testContext(t)
				errs := make(chan error, 1)
				var once sync.Once
				s.pc.AddNoticeHandler(func(*pgnotify.Notice) { once.Do(func() { errs <- query(ctx, s) }) })
				mustExec(t, s, "do $$ begin raise notice 'n17'; end $$")
				if err := <-errs; err != nil && !errors.Is(err, pgnotify.ErrBusy) {
					t.Errorf("during a statement: %v", err)
				}
				s.settle(t)
			})
		})
	}
}

// N17
func TestQueryFromAHandlerWhileRowsAreOpen(t *testing.T) {
	for name, query := range queriesInHandlers {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
				ctx := testContext(t)
				errs := make(chan error)
				var once sync.Once
				s.pc.AddNoticeHandler(func(*pgnotify.Notice) { once.Do(func() { errs <- query(ctx, s) }) })
				mustExec(t, s, "create or replace function pg_temp.note(i int) returns int language plpgsql as $$ begin raise notice '%', i; return i; end $$")
				rows, err := s.QueryContext(ctx, "select pg_temp.note(i) from generate_series(1, 100) i")
				if err != nil {
					t.Fatal(err)
				}
				defer rows.Close()
				select {
				case err := <-errs:
					if !errors.Is(err, pgnotify.ErrBusy) {
						t.Errorf("got %v, want ErrBusy", err)
					}
				case <-ctx.Done():
					t.Fatal("the handler hangs while rows are open")
				}
				count := 0
				for rows.Next() {
					count++
				}
				if err := rows.Err(); err != nil || count != 100 {
					t.Errorf("got %d rows, %v", count, err)
				}
			})
		})
	}
}

// A handler that blocks holds up a statement for a moment only, however much it
// is behind.
func TestHandlerThatBlocks(t *testing.T) {
	eachLoggedSession(t, func(t *testing.T, db *sql.DB, s *session, log *lockedBuffer) {
		const count = 6000
		channel := uniqueName("blocks")
		release, entered := make(chan struct{}), make(chan struct{}, 2*count)
		s.pc.AddNotificationHandler(func(pgnotify.Notification) { entered <- struct{}{}; <-release })
		s.listen(t, channel)
		notify(t, db, channel, "0")
		<-entered
		start := time.Now()
		mustExec(t, s, "select pg_notify($1, i::text) from generate_series(1, $2::int) i", channel, count)
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("the statement took %v", d)
		}
		if got := strings.Count(log.String(), `"level":"WARN"`); got != 1 {
			t.Errorf("%d warnings were logged, want 1: %s", got, log)
		}
		for i := range count + 1 {
			s.wantNext(t, fmt.Sprint(i))
		}
		close(release)
		notify(t, s, channel, "after")
		s.wantNext(t, "after")
	})
}

// A trigger that makes the server say all that it may say beside an answer.
const talkative = `
	create temp table talkative (i int, text text);
	create function pg_temp.talk() returns trigger language plpgsql as $$ begin
		raise notice 'row %', new.i;
		perform set_config('application_name', current_setting('pgnotify.name') || ' ' || new.i, false);
		perform set_config('DateStyle', (array['ISO, MDY', 'ISO, DMY'])[1 + new.i % 2], false);
		perform pg_notify(current_setting('pgnotify.channel'), 'row ' || new.i);
		return new;
	end $$;
	create trigger talk before insert on talkative for each row execute procedure pg_temp.talk();`

// N27
func TestMessagesDuringOtherAnswers(t *testing.T) {
	const rows = 300
	for name, insert := range map[string]func(t *testing.T, tx *sql.Tx){
		"COPY": func(t *testing.T, tx *sql.Tx) {
			st, err := tx.Prepare(pq.CopyIn("talkative", "i", "text"))
			if err != nil {
				t.Fatal(err)
			}
			for i := range rows {
				if _, err := st.Exec(i, strings.Repeat("x", 1000)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := st.Exec(); err != nil {
				t.Fatal(err)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"rows": func(t *testing.T, tx *sql.Tx) {
			wantRows(t, tx, rows, "insert into talkative select i, repeat('x', 10000) from generate_series(0, 299) i returning i, text")
		},
		"extended": func(t *testing.T, tx *sql.Tx) {
			wantRows(t, tx, rows, "insert into talkative select i, $1 from generate_series(0, $2) i returning i, text", "text", rows-1)
		},
		"prepared": func(t *testing.T, tx *sql.Tx) {
			st, err := tx.Prepare("insert into talkative values ($1, $2)")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for i := range rows {
				if _, err := st.Exec(i, "text"); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
				channel := uniqueName("n27")
				mustExec(t, s, talkative)
				mustExec(t, s, fmt.Sprintf("set pgnotify.channel = '%s'; set pgnotify.name = '%s'", channel, appName))
				var notices int
				s.pc.AddNoticeHandler(func(n *pgnotify.Notice) {
					if n.Message == fmt.Sprint("row ", notices) {
						notices++
					}
				})
				s.listen(t, channel)
				flood := newFlood(t, db, channel)
				for range 3 { // while others notify it
					notices = 0
					tx := mustBegin(t, s)
					insert(t, tx)
					mustCommit(t, tx)
					if notices != rows {
						t.Errorf("%d notices were handled in order when the statement returned, want %d", notices, rows)
					}
					if name, _ := s.pc.ParameterStatus("application_name"); name != fmt.Sprint(appName, " ", rows-1) {
						t.Errorf("application_name is %q", name)
					}
					if style, _ := s.pc.ParameterStatus("DateStyle"); style != "ISO, DMY" {
						t.Errorf("DateStyle is %q", style)
					}
				}
				sent := flood.stop(t)
				s.settle(t)
				flooded, own := 0, 0
				for _, p := range payloads(t, s, pgnotify.Timeout(0)) {
					switch p {
					case fmt.Sprint("flood ", flooded):
						flooded++
					case fmt.Sprint("row ", own%rows):
						own++
					default:
						t.Fatalf("got %q after %d of the flood and %d own", p, flooded, own)
					}
				}
				if flooded != sent || own != 3*rows {
					t.Errorf("got %d notifications of %d, and %d own of %d", flooded, sent, own, 3*rows)
				}
			})
		})
	}
}

func wantRows(t *testing.T, tx *sql.Tx, want int, query string, args ...any) {
	t.Helper()
	rows, err := tx.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	count := 0
	for ; rows.Next(); count++ {
		var (
			i    int
			text string
		)
		if err := rows.Scan(&i, &text); err != nil || i != count {
			t.Fatalf("row %d: got %d, %v", count, i, err)
		}
	}
	if err := rows.Err(); err != nil || count != want {
		t.Fatalf("got %d rows, %v; want %d", count, err, want)
	}
}

// A flood of notifications from another session.
type flood struct {
	cancel context.CancelFunc
	done   chan struct{}
	sent   int
	err    error
}

// newFlood returns when the flood has begun.
func newFlood(t *testing.T, db *sql.DB, channel string) *flood {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	f := &flood{cancel: cancel, done: make(chan struct{})}
	begun := make(chan struct{})
	go func() { // until stop, or the end of the test
		defer close(f.done)
		for ; ctx.Err() == nil && f.err == nil; f.sent++ {
			f.err = pgnotify.Notify(context.Background(), db, channel, fmt.Sprint("flood ", f.sent))
			if f.sent == 0 {
				close(begun)
			}
		}
	}()
	t.Cleanup(func() { f.stop(t) })
	<-begun
	return f
}

// stop returns how many notifications were sent.
func (f *flood) stop(t *testing.T) int {
	t.Helper()
	f.cancel()
	<-f.done
	if f.err != nil {
		t.Errorf("the flood: %v", f.err)
	}
	return f.sent
}
