package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{`{"a": "b\n"}`, `{"a": "b\n"}`},
		{"héllo, 世界 🎉", "héllo, 世界 🎉"},
		{"two\nlines\r\n\tand", `two\nlines\r\n\tand`},
		{"\x1b[31mred\x07", `\x1b[31mred\a`},
		{"a\u202eb", `a\u202eb`},
		{"\xff\xfe|\ufffd", `\xff\xfe|\ufffd`},
	} {
		if got := printable(c.in); got != c.want {
			t.Errorf("%q: %s, want %s", c.in, got, c.want)
		}
	}
}

// newTestOutput returns an output to these builders.
func newTestOutput(t *testing.T, out, errs *strings.Builder) *output {
	return newOutput(streams{nil, out, errs}, func(err error) { t.Error(err) })
}

// On a terminal one line is kept up to date, and makes room for others.
func TestRedraw(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	o := newTestOutput(t, &out, &errs)
	o.cols = func() (int, bool) { return 20, true }
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	o.status(noon, nil, "0123456789abcdef")
	o.status(noon, nil, "short")
	o.session(pgnotify.ListenerEvent{Kind: pgnotify.ListenerConnected, Time: noon, Host: "h", PID: 7})
	o.status(noon, nil, "again")
	if err := o.end(); err != nil {
		t.Error(err)
	}
	want := "\r12:00:00 0123456789" + "\r12:00:00 short     " + "\r              \r" + "\r12:00:00 again" + "\n"
	if got := out.String(); got != want {
		t.Errorf("stdout\n%q, want\n%q", got, want)
	}
	if got := errs.String(); got != "2026-03-01 12:00:00.000 -- connected to h pid 7\n" {
		t.Errorf("stderr %q", got)
	}
}

// A gap that comes from too many notifications at once says how many are missing.
func TestOverflow(t *testing.T) {
	t.Parallel()
	gap := pgnotify.Gap{Cause: pgnotify.GapOverflow, From: time.Unix(0, 0), To: time.Unix(1, 0), Dropped: 12}
	var out, errs strings.Builder
	o := newTestOutput(t, &out, &errs)
	o.gap(gap)
	if got := errs.String(); !strings.Contains(got, "GAP: notifications may be missing") || !strings.Contains(got, "12 were dropped") {
		t.Error(got)
	}
	o.json = true
	o.gap(gap)
	for _, want := range []string{`"kind":"gap"`, `"cause":"overflow"`, `"from":"1970-01-01T00:00:00Z"`, `"to":"1970-01-01T00:00:01Z"`, `"dropped":12}`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: no %s", out.String(), want)
		}
	}
}

// Each way that a session is lost, and not to be had, has its words.
func TestEventText(t *testing.T) {
	t.Parallel()
	cause := errors.New("pgnotify: why")
	for _, c := range []struct {
		e    pgnotify.ListenerEvent
		want string
	}{
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerConnected, Host: "h:5432", PID: 7}, "connected to h:5432 pid 7"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerDisconnected, Err: &pgnotify.DisconnectError{}}, "session lost: the server closed the connection"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerDisconnected, Err: cause}, "session given up: why"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Attempt: 1}, "reconnecting"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Attempt: 2, Delay: 1500 * time.Microsecond, Err: cause}, "no session: why; reconnecting in 2ms"},
	} {
		if got := eventText(c.e); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
