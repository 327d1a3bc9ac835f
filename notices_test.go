package pgnotify_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// A collector gathers what a handler was called with.
type collector[T any] struct {
	mu   sync.Mutex // guards list
	list []T
}

func (c *collector[T]) add(v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, v)
}

func (c *collector[T]) all() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// messages collects the texts of a session's notices.
func messages(s *session) *collector[string] {
	c := new(collector[string])
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { c.add(n.Message) })
	return c
}

// raise returns a statement that raises a message at a level.
func raise(level, message string) string {
	return "do $do$ begin raise " + level + " using message = " + pq.QuoteLiteral(message) + "; end $do$"
}

// logTo makes a Config log into a buffer.
func logTo(b *lockedBuffer) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) { c.Logger = slog.New(slog.NewJSONHandler(b, nil)) }
}

// A lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// M1
func TestNoticeHandlersRunInOrderAndSurviveAPanic(t *testing.T) {
	t.Parallel()
	var logged lockedBuffer
	s := take(t, open(t, dsn(t), logTo(&logged)))
	var calls collector[string]
	handler := func(name string) func(*pgnotify.Notice) {
		return func(n *pgnotify.Notice) { calls.add(name + " " + n.Message) }
	}
	s.pc.AddNoticeHandler(handler("first"))
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) {
		calls.add("panics " + n.Message)
		panic("on purpose")
	})
	s.pc.AddNoticeHandler(handler("last"))
	mustExec(t, s, raise("notice", "one")+";"+raise("notice", "two"))
	if got := queryValue[int](t, s, "select 42"); got != 42 {
		t.Errorf("the query after it gave %d", got)
	}
	want := []string{"first one", "panics one", "last one", "first two", "panics two", "last two"}
	if got := calls.all(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, text := range []string{"on purpose", "TestNoticeHandlersRunInOrderAndSurviveAPanic", `"level":"ERROR"`} {
		if !strings.Contains(logged.String(), text) {
			t.Errorf("the log has no %q: %s", text, &logged)
		}
	}
}

// M1: removing.
func TestRemovedNoticeHandlerIsNotCalled(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		var calls collector[string]
		remove := s.pc.AddNoticeHandler(func(*pgnotify.Notice) { calls.add("removed") })
		var removeSelf func()
		removeSelf = s.pc.AddNoticeHandler(func(*pgnotify.Notice) {
			calls.add("once")
			removeSelf()
		})
		s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { calls.add(n.Message) })
		remove()
		remove()
		mustExec(t, s, raise("notice", "one"))
		mustExec(t, s, raise("notice", "two"))
		if got, want := calls.all(), []string{"once", "one", "two"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// M2
func TestNoticeWithoutHandlerIsSilent(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		var logged lockedBuffer
		s := take(t, open(t, m.dsn, logTo(&logged)))
		mustExec(t, s, raise("warning", "nobody listens"))
		mustExec(t, s, "drop table if exists "+uniqueName("m2"))
		if logged.String() != "" {
			t.Errorf("%s: the log has %s", m.name, &logged)
		}
	}
}

// M3
func TestNoticeIsHandledBeforeTheStatementReturns(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		got := messages(s)
		ctx := testContext(t)
		function := "pg_temp." + uniqueName("m3")
		mustExec(t, s, "create function "+function+"(text) returns text language plpgsql as $$ begin raise notice '%', $1; return $1; end $$")
		st, err := s.PrepareContext(ctx, "select "+function+"($1)")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		for i := range 50 {
			text := fmt.Sprint(i)
			switch i % 3 {
			case 0:
				mustExec(t, s, raise("notice", text))
			case 1:
				queryValue[string](t, s, "select "+function+"($1)", text)
			case 2:
				if _, err := st.ExecContext(ctx, text); err != nil {
					t.Fatal(err)
				}
			}
			if all := got.all(); len(all) != i+1 || all[i] != text {
				t.Fatalf("after statement %d the handler had seen %q", i, all)
			}
		}
	})
}

// M4
func TestEveryNoticeFieldArrivesUnderItsName(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		var got collector[pgnotify.Notice]
		s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { got.add(*n) })
		mustExec(t, s, `do $$ begin raise warning using message = 'the message', detail = 'the detail',
			hint = 'the hint', errcode = '01P77', column = 'the column', constraint = 'the constraint',
			datatype = 'the type', table = 'the table', schema = 'the schema'; end $$`)
		list := got.all()
		if len(list) != 1 {
			t.Fatalf("%d notices", len(list))
		}
		n := list[0]
		if n.File == "" || n.Line == "" || n.Routine == "" || !strings.Contains(n.Where, "inline_code_block") {
			t.Errorf("file %q, line %q, routine %q, where %q", n.File, n.Line, n.Routine, n.Where)
		}
		n.File, n.Line, n.Routine, n.Where = "", "", "", ""
		want := pgnotify.Notice{
			Severity: "WARNING", SeverityNonLocalized: "WARNING", Code: "01P77", Message: "the message",
			Detail: "the detail", Hint: "the hint", Column: "the column", Constraint: "the constraint",
			DataTypeName: "the type", Table: "the table", Schema: "the schema",
		}
		if n != want {
			t.Errorf("got  %#v\nwant %#v", n, want)
		}
	})
}

// M4: positions. The server sends them with notices about a statement's text.
func TestNoticeHasItsPosition(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	var got collector[pgnotify.Notice]
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { got.add(*n) })
	mustExec(t, s, `set escape_string_warning = on; set standard_conforming_strings = off`)
	mustExec(t, s, `select 'a\b'`)
	if list := got.all(); len(list) == 0 || list[0].Position != "8" || list[0].Code != "22P06" {
		t.Errorf("got %+v", list)
	}
	got = collector[pgnotify.Notice]{}
	mustExec(t, s, `do $$ begin execute 'select ''a\\b'''; end $$`)
	var inner *pgnotify.Notice
	for _, n := range got.all() {
		if n.InternalQuery != "" {
			inner = &n
		}
	}
	if inner == nil || inner.InternalPosition != "8" || !strings.HasPrefix(inner.InternalQuery, "select") {
		t.Errorf("no notice with an internal query: %+v", got.all())
	}
}

// M4: errors, which come through lib/pq.
func TestConstraintViolationsKeepTheirFields(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, table := testContext(t), uniqueName("m4")
		mustExec(t, s, "create temp table "+table+` (a int constraint positive check (a > 0),
			b int constraint `+table+`_once unique deferrable initially deferred)`)
		_, err := s.ExecContext(ctx, "insert into "+table+" values (-1, 1)")
		if e := serverError(t, err); e.Code != "23514" || e.Table != table || e.Constraint != "positive" || !strings.HasPrefix(e.Schema, "pg_temp") {
			t.Errorf("check violation: %+v", e)
		}
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, "insert into "+table+" values (1, 1), (2, 1)")
		if e := serverError(t, tx.Commit()); e.Code != "23505" || e.Constraint != table+"_once" {
			t.Errorf("deferred constraint: %+v", e)
		}
		queryValue[int](t, s, "select 1")
	})
}

// serverError returns the *pq.Error in err.
func serverError(t testing.TB, err error) *pq.Error {
	t.Helper()
	e, ok := asError[*pq.Error](err)
	if !ok {
		t.Fatalf("got %v, want an error of the server", err)
	}
	return e
}

// M5
func TestNoticeStaysValidAfterTheHandler(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		var kept collector[*pgnotify.Notice]
		s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { kept.add(n) })
		const count = 200
		mustExec(t, s, fmt.Sprintf(`do $$ begin for i in 1..%d loop
			raise notice using message = 'message ' || i, detail = repeat(i::text, 50); end loop; end $$`, count))
		queryValue[string](t, s, "select string_agg(repeat('x', 100), '') from generate_series(1, 1000)")
		s.Conn.Close()
		list := kept.all()
		if len(list) != count {
			t.Fatalf("%d notices", len(list))
		}
		for i, n := range list {
			if n.Message != fmt.Sprint("message ", i+1) || n.Detail != strings.Repeat(fmt.Sprint(i+1), 50) {
				t.Fatalf("notice %d is %+v", i+1, n)
			}
		}
	})
}

// M6
func TestStartupNoticesReachOnNotice(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		var got collector[string]
		var pids collector[uint32]
		db := open(t, m.dsn, func(c *pgnotify.Config) {
			c.Options = "-c client_min_messages=debug5"
			c.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) {
				got.add(n.SeverityNonLocalized)
				pids.add(conn.PID())
			}
		})
		s := take(t, db)
		list := got.all()
		if len(list) == 0 || !strings.HasPrefix(list[0], "DEBUG") {
			t.Errorf("%s: got %q", m.name, list)
		}
		for _, pid := range pids.all() {
			if pid != s.pc.PID() {
				t.Errorf("%s: a notice of session %d, the session is %d", m.name, pid, s.pc.PID())
			}
		}
	}
}

// M7
func TestNonASCIINotices(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		got := messages(s)
		text := "Grüße, 世界, \U0001F418 '\\"
		mustExec(t, s, raise("notice", text))
		if list := got.all(); !slices.Equal(list, []string{text}) {
			t.Errorf("got %q", list)
		}
	})
}

// M8
func TestNoSpuriousNoticeInConcurrentTransactions(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var got collector[string]
			db := open(t, m.dsn, func(c *pgnotify.Config) {
				c.OnNotice = func(_ *pgnotify.Conn, n *pgnotify.Notice) { got.add(n.String()) }
			})
			db.SetMaxOpenConns(10)
			db.SetMaxIdleConns(10)
			ctx := testContext(t)
			var group sync.WaitGroup
			for range 10 {
				group.Go(func() {
					for range 100 {
						tx, err := db.BeginTx(ctx, nil)
						if err == nil {
							err = tx.Commit()
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			if list := got.all(); len(list) > 0 {
				t.Errorf("%d notices: %q", len(list), list[0])
			}
		})
	}
}

type rowsQueryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readAll returns the first column of all rows as text.
func readAll(t testing.TB, db rowsQueryer, query string, args ...any) (values []string) {
	t.Helper()
	rows, err := db.QueryContext(testContext(t), query, args...)
	if err != nil {
		t.Fatalf("%.200s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%.200s: %v", query, err)
	}
	return values
}

// M10
func TestNoticeHandlersMayBeSwappedDuringAQuery(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		always := messages(s)
		ctx, stop := context.WithCancel(testContext(t))
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for ctx.Err() == nil {
					remove := s.pc.AddNoticeHandler(func(*pgnotify.Notice) {})
					remove()
				}
			})
		}
		const count = 2000
		mustExec(t, s, fmt.Sprintf("do $$ begin for i in 1..%d loop raise notice '%%', i; end loop; end $$", count))
		stop()
		group.Wait()
		if n := len(always.all()); n != count {
			t.Errorf("the handler that stayed saw %d notices of %d", n, count)
		}
	})
}
