package pgnotify_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

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
