package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

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

// On a terminal of 80 columns all that matters about the health fits, and on a narrower
// one whole parts are left out.
func TestHealthFits(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	h := pgnotify.Health{
		ConnectedSince: noon.Add(-12*time.Hour - 34*time.Minute - 56*time.Second), Host: "127.0.0.1:5432", PID: 4711,
		LastHeard: noon.Add(-time.Second), RoundTrip: 410 * time.Microsecond, QueueUsage: 0.125,
	}
	for width, want := range map[int]string{
		80: "12:00:00 primary, 0.41 ms, queue 12.5%, reconnects 12, up 12h34m",
		81: "12:00:00 primary, 0.41 ms, queue 12.5%, reconnects 12, up 12h34m, 127.0.0.1:5432",
		60: "12:00:00 primary, 0.41 ms, queue 12.5%, reconnects 12",
		41: "12:00:00 primary, 0.41 ms, queue 12.5%",
		12: "12:00:00 pr",
	} {
		var out, errs strings.Builder
		o := newTestOutput(t, &out, &errs)
		o.cols = func() (int, bool) { return width, true }
		o.status(noon, nil, "not this", healthParts(h, 12, noon)...)
		if got := strings.TrimPrefix(out.String(), "\r"); got != want || len(got) >= width {
			t.Errorf("%d columns: %q, want %q", width, got, want)
		}
	}
}

// Several hosts have a line each, and a status has one line in all. What the server says
// cannot look like a line of its own.
func TestErrorsOfSeveralHosts(t *testing.T) {
	t.Parallel()
	cause := errors.New("pgnotify: no host could be connected to:\npgnotify: connect to a: no\npgnotify: connect to b: n\x1bo")
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	var out, errs strings.Builder
	o := newTestOutput(t, &out, &errs)
	o.session(pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Time: noon, Attempt: 2, Err: cause})
	want := "2026-03-01 12:00:00.000 -- no session (reconnecting): no host could be connected to:\n    connect to a: no\n    connect to b: n\\x1bo\n"
	if errs.String() != want {
		t.Errorf("%q, want\n%q", errs.String(), want)
	}
	o.status(noon, nil, "UNHEALTHY: "+unhealthy(cause, 0).Error())
	if want := "2026-03-01 12:00:00.000 UNHEALTHY: no host could be connected to: connect to a: no; connect to b: n\\x1bo\n"; out.String() != want {
		t.Errorf("%q, want\n%q", out.String(), want)
	}
}

// The server's hint is printed.
func TestHint(t *testing.T) {
	t.Parallel()
	cause := fmt.Errorf("pgnotify: connect to h: %w", &pq.Error{Code: "58P01", Message: "no file", Hint: "Look\nthere."})
	const want = "connect to h: pq: no file (58P01)\nhint: Look there."
	if got := errorText(cause); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := unhealthy(cause, 0).Error(); got != want {
		t.Errorf("unhealthy: %q", got)
	}
	var errs strings.Builder
	if code := exit(t.Context(), streams{err: &errs}, "listen", cause); code != exitFailure || !strings.HasSuffix(errs.String(), "(58P01)\n    hint: Look there.\n") {
		t.Errorf("status %d, %q", code, errs.String())
	}
}

// An outage is told once, and then when its error changes or some time has passed.
func TestOutageIsToldSeldom(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	var o outage
	for i, c := range []struct {
		after time.Duration
		err   string
		want  bool
	}{
		{0, "refused", true},
		{time.Second, "refused", false},
		{2 * time.Second, "reset by 127.0.0.1:40001", true},
		{3 * time.Second, "reset by 127.0.0.1:40002", false},
		{4 * time.Second, "refused", true},
		{8 * time.Second, "refused", false},
		{9 * time.Second, "refused", true},
		{10 * time.Second, "refused", false},
	} {
		if got := o.tells(pgnotify.ListenerEvent{Time: noon.Add(c.after), Err: errors.New(c.err)}); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
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
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerProbeFailed, Err: cause}, "not known whether notifications arrive: why"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Attempt: 1}, "reconnecting"},
		{pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Attempt: 2, Delay: 1500 * time.Microsecond, Err: cause}, "no session (reconnecting in 2ms): why"},
	} {
		if got := eventText(c.e); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
