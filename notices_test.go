package pgnotify_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
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

// M7
func TestLocalisedSeverity(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	var got collector[*pgnotify.Notice]
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { got.add(n) })
	localised := false
	for _, locale := range []string{"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "es_ES.UTF-8", "C"} {
		if _, err := s.ExecContext(testContext(t), "set lc_messages = "+pq.QuoteLiteral(locale)); err != nil {
			continue // the server does not have it
		}
		got = collector[*pgnotify.Notice]{}
		mustExec(t, s, raise("warning", "x"))
		list := got.all()
		if len(list) != 1 || list[0].SeverityNonLocalized != "WARNING" || list[0].Level() != slog.LevelWarn {
			t.Fatalf("%s: got %+v", locale, list)
		}
		localised = localised || list[0].Severity != "WARNING"
	}
	if !localised {
		t.Log("the server has no messages in another language; see TestSeverityOfAServerInAnotherLanguage")
	}
}

// M7, without a server that speaks another language.
func TestLevelComesFromTheNonLocalisedSeverity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		localised, severity string
		want                slog.Level
	}{
		{"WARNUNG", "WARNING", slog.LevelWarn},
		{"HINWEIS", "NOTICE", slog.LevelInfo},
		{"DEBUG", "DEBUG", slog.LevelDebug},
		{"WARNING", "", slog.LevelWarn}, // before PostgreSQL 9.6
		{"WARNING", "DEBUG", slog.LevelDebug},
		{"INFO", "INFO", slog.LevelInfo},
		{"LOG", "LOG", slog.LevelInfo},
	} {
		n := &pgnotify.Notice{Severity: c.localised, SeverityNonLocalized: c.severity}
		if got := n.Level(); got != c.want {
			t.Errorf("%q, %q: %v, want %v", c.localised, c.severity, got, c.want)
		}
	}
}

// M7: the severity for programs decides, not the one for people, which may be in
// any language: of a notice its level, of an error whether the session is lost.
func TestSeverityOfAServerInAnotherLanguage(t *testing.T) {
	t.Parallel()
	report := func(typ byte, localised, severity, code string) []byte {
		return pgfake.Frame(typ, "S"+localised+"\x00V"+severity+"\x00C"+code+"\x00Mgrüß Gott\x00\x00")
	}
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(),
		pgfake.Await('Q'), pgfake.Send(report('N', "WARNUNG", "WARNING", "01000"), report('N', "WARNING", "DEBUG", "00000"),
			pgfake.Complete("SELECT 0"), pgfake.Ready('I')),
		pgfake.Await('Q'), pgfake.Send(report('E', "FEHLER", "ERROR", "22012"), pgfake.Ready('I')),
		pgfake.Await('Q'), pgfake.Send(report('E', "致命的エラー", "FATAL", "57P01"))})
	s := take(t, open(t, server.DSN()))
	var got collector[*pgnotify.Notice]
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) { got.add(n) })
	mustExec(t, s, "x")
	var told []string
	for _, n := range got.all() {
		told = append(told, fmt.Sprint(n.Severity, " ", n.SeverityNonLocalized, " ", n.Level()))
	}
	if want := []string{"WARNUNG WARNING WARN", "WARNING DEBUG DEBUG"}; !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
	if err := execError(s.ExecContext(testContext(t), "x")); serverError(t, err).Code != "22012" || pgnotify.IsDisconnect(err) {
		t.Errorf("an error: %v", err)
	}
	wantLoss(t, "the end", execError(s.ExecContext(testContext(t), "x")), pgnotify.AdminShutdown, "57P01")
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

// M9
func TestNoticesAtEveryLevel(t *testing.T) {
	levels := []string{"debug5", "debug1", "log", "notice", "warning", "error"}
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		table := uniqueName("m9")
		mustExec(t, s, "create temp table "+table+" (a int)")
		mustExec(t, s, `create or replace function pg_temp.say() returns trigger language plpgsql as $$ begin
			raise debug 'debug'; raise log 'log'; raise info 'info'; raise notice 'notice'; raise warning 'warning';
			return new; end $$`)
		mustExec(t, s, "create trigger say before insert on "+table+" for each row execute function pg_temp.say()")
		mustExec(t, s, `create or replace function pg_temp.speak(i int) returns int language plpgsql as $$ begin
			raise notice 'row %', i; return i; end $$`)
		wanted := map[string][]string{
			"debug5": {"debug", "log", "info", "notice", "warning"}, "debug1": {"debug", "log", "info", "notice", "warning"},
			"log": {"log", "info", "notice", "warning"}, "notice": {"info", "notice", "warning"},
			"warning": {"info", "warning"}, "error": {"info"},
		}
		for _, level := range levels {
			mustExec(t, s, "set client_min_messages = "+level)
			got := messages(s)
			for what, run := range map[string]func(){
				"COPY":  func() { copyInto(t, s, table, 2) },
				"rows":  func() { mustExec(t, s, "insert into "+table+" values ($1), ($2)", 1, 2) },
				"DO":    func() { mustExec(t, s, "do $$ begin insert into "+table+" values (1), (2); end $$") },
				"exec":  func() { mustExec(t, s, "insert into "+table+" values (1), (2)") },
				"query": func() { readAll(t, s, "insert into "+table+" values (1), (2) returning a") },
			} {
				before := len(got.all())
				run()
				heard := slices.DeleteFunc(got.all()[before:], func(m string) bool {
					return !slices.Contains(wanted["debug5"], m) // what the server says at debug levels
				})
				if want := append(slices.Clone(wanted[level]), wanted[level]...); !slices.Equal(heard, want) {
					t.Errorf("%s at %s: got %q, want %q", what, level, heard, want)
				}
			}
		}
		mustExec(t, s, "set client_min_messages = notice")
		got := messages(s)
		const rows = 3000
		if n := len(readAll(t, s, fmt.Sprintf("select pg_temp.speak(i) from generate_series(1, %d) i", rows))); n != rows {
			t.Errorf("%d rows", n)
		}
		if list := got.all(); len(list) != rows || list[rows-1] != fmt.Sprint("row ", rows) {
			t.Errorf("%d notices between rows", len(list))
		}
	})
}

// copyInto copies rows, each with the number of the row, into a table of one
// column.
func copyInto(t testing.TB, s *session, table string, rows int) {
	t.Helper()
	ctx := testContext(t)
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	st, err := tx.PrepareContext(ctx, "copy "+table+" from stdin")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if _, err := st.ExecContext(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.ExecContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
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

// M11
func TestNoticesIntoSlog(t *testing.T) {
	t.Parallel()
	var logged lockedBuffer
	logger := slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := take(t, open(t, dsn(t)+" client_min_messages=log"))
	s.pc.AddNoticeHandler(func(n *pgnotify.Notice) {
		logger.Log(context.Background(), n.Level(), n.Message, "notice", n)
	})
	mustExec(t, s, "do $$ begin raise log 'a'; raise info 'b'; raise notice 'c' using detail = 'because'; raise warning 'd'; end $$")
	var got []string
	for line := range strings.Lines(logged.String()) {
		var record struct {
			Level, Msg string
			Notice     map[string]string
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record.Notice["message"] != record.Msg {
			t.Errorf("no group of fields: %s", line)
		}
		got = append(got, record.Level+" "+record.Msg+" "+record.Notice["detail"])
	}
	if want := []string{"INFO a ", "INFO b ", "INFO c because", "WARN d "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if level := queryValue[string](t, s, "show client_min_messages"); level != "log" {
		t.Errorf("client_min_messages is %s", level)
	}
}

// M11: a handler does not change what the server sends.
func TestClientMinMessagesIsTheUsers(t *testing.T) {
	t.Parallel()
	s := take(t, open(t, dsn(t)))
	before := queryValue[string](t, s, "show client_min_messages")
	messages(s)
	if after := queryValue[string](t, s, "show client_min_messages"); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func TestNoticePrintsAsPsqlDoes(t *testing.T) {
	t.Parallel()
	n := &pgnotify.Notice{Severity: "WARNUNG", SeverityNonLocalized: "WARNING", Message: "m", Detail: "d", Hint: "h"}
	if got, want := n.String(), "WARNUNG:  m\nDETAIL:  d\nHINT:  h"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
