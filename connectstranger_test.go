package pgnotify_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// O8: no error quotes raw, or at length, what a server says that may be anybody, and it
// says that the server may be anybody.
func TestErrorsOfAStranger(t *testing.T) {
	t.Parallel()
	nasty := "\x1b[2J\u202e" + strings.Repeat("hello\r\n", 4000)
	for name, c := range map[string]struct {
		script pgfake.Script
		code   string
	}{
		"plain text": {pgfake.Script{pgfake.Startup(), pgfake.Send([]byte("Ecould " + nasty))}, ""},
		"FATAL":      {pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Error("FATAL", "28000", nasty))}, "28000"},
		"ERROR":      {pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Error("ERROR", "42P01", nasty)), pgfake.Drain()}, "42P01"},
		"SCRAM": {pgfake.Script{pgfake.Startup(), pgfake.AskSCRAM("i=4096"), pgfake.Await('p'),
			pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x0ce="+nasty[:1500])), pgfake.Drain()}, ""},
		"HTTP": {pgfake.Script{pgfake.Startup(), pgfake.Send([]byte("HTTP/1.1 " + nasty))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := pgfake.Start(t, c.script)
			err := connectError(t, fake.DSN()+" password=hush")
			text := strings.ReplaceAll(err.Error(), "\n", " ")
			if len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.Contains(text, "hush") {
				t.Errorf("%d bytes: %.300q", len(text), text)
			}
			server, bare := err.(*pq.Error)
			if bare != (c.code != "") || bare && string(server.Code) != c.code {
				t.Errorf("%T: %.300q", err, text)
			}
			if unsure := strings.Contains(text, "unverified server"); unsure != (name != "HTTP") {
				t.Errorf("marked is %v: %.300q", unsure, text)
			}
		})
	}
}

// O8: a server known by its certificate, or that has let the client in, says what it says.
func TestErrorsOfAKnownServer(t *testing.T) {
	t.Parallel()
	s := ours(t)
	if s.ca == "" {
		t.Skip("the server has no TLS")
	}
	verified := " sslmode=verify-full host=localhost hostaddr=127.0.0.1 sslrootcert=" + quote(s.ca)
	for parameters, marked := range map[string]bool{
		" sslmode=disable user=t_scram password=wrong":                true,
		" sslmode=require user=t_scram password=wrong":                true,
		verified + " user=t_scram password=wrong":                     false,
		" sslmode=disable user=t_trust dbname=nowhere password=wrong": false,
	} {
		err := connectError(t, s.dsn+parameters)
		if got := strings.Contains(err.Error(), "the unverified server says: "); got != marked {
			t.Errorf("%s: %v", parameters, err)
		}
		serverError(t, err)
	}
}

// O8: nor do notices of such a server.
func TestNoticesOfAStranger(t *testing.T) {
	t.Parallel()
	nasty := "\x1b[2J" + strings.Repeat("hello\r\n", 4000)
	for _, known := range []bool{false, true} {
		notice := pgfake.Send(pgfake.Notice("NOTICE", "00000", nasty))
		script := pgfake.Script{pgfake.Startup(), notice, pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"))}
		if known {
			script[1], script[2] = script[2], script[1]
		}
		script = append(script, pgfake.Send(pgfake.Frame('K', "\x00\x00\x12\x67key!"), pgfake.Ready('I')), pgfake.Serve())
		var heard collector[string]
		db := open(t, pgfake.Start(t, script).DSN(), func(c *pgnotify.Config) {
			c.OnNotice = func(_ *pgnotify.Conn, n *pgnotify.Notice) { heard.add(fmt.Sprintf("%.1000s", n.Message)) }
		})
		queryValue[string](t, db, "select 1")
		list := heard.all()
		if len(list) != 1 || strings.HasPrefix(list[0], "\x1b[2J") != known || !known && len(list[0]) > 210 {
			t.Errorf("known is %v: %.300q", known, list)
		}
	}
}
