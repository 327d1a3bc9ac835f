package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Notifications go to stdout, what happens to the session to stderr.
func TestListen(t *testing.T) {
	t.Parallel()
	db, one, two := open(t), newChannel(), newChannel()+" and 2"
	r := start(t, "listen", "-d", dsn(t), one, "--count=3", two)
	await(t, r.errs, "-- connected to ")
	await(t, r.errs, fmt.Sprintf("-- listening to %q, %q", one, two))
	notify(t, db, one, "hello")
	if got := line(t, r.out); !regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ` + one + `\[\d+\]: hello$`).MatchString(got) {
		t.Errorf("%q", got) // and it has come at once
	}
	notify(t, db, two, "")
	if got := line(t, r.out); !strings.Contains(got, two+"[") || !strings.HasSuffix(got, "]") {
		t.Errorf("%q", got)
	}
	notify(t, db, one, "two\nlines\x1b")
	if got := line(t, r.out); !strings.HasSuffix(got, `]: two\nlines\x1b`) {
		t.Errorf("%q", got)
	}
	if code := r.exit(); code != exitOK {
		t.Errorf("status %d", code)
	}
	if left, ok := <-r.out; ok {
		t.Errorf("more than was wanted: %q", left)
	}
}

func TestListenRaw(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	r := start(t, "listen", "-d", dsn(t), "-raw", "-count", "2", channel)
	await(t, r.errs, "-- listening")
	notify(t, db, channel, "\ttwo\nlines", `\n`)
	for _, want := range []string{"\ttwo", "lines", `\n`} {
		if got := line(t, r.out); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if code := r.exit(); code != exitOK {
		t.Errorf("status %d", code)
	}
}

// A lost session is replaced, and a gap stands in its place.
func TestListenJSON(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	r := start(t, "listen", "--json", "-d", dsn(t), channel)
	session := record(t, r.out, "connected")
	if session["host"] == "" || session["pid"] == 0.0 {
		t.Errorf("%v", session)
	}
	if l := record(t, r.out, "listening"); fmt.Sprint(l["channels"]) != "["+channel+"]" {
		t.Errorf("%v", l)
	}
	payload := "<\"\n\x01>"
	notify(t, db, channel, payload)
	if n := record(t, r.out, "notification"); n["channel"] != channel || n["payload"] != payload || n["pid"] == 0.0 {
		t.Errorf("%v", n)
	}

	terminate(t, db, session["pid"])
	if lost := record(t, r.out, "disconnected"); !strings.Contains(fmt.Sprint(lost["error"]), "57P01") || lost["pid"] != session["pid"] {
		t.Errorf("%v", lost)
	}
	gap := reconnected(t, r)
	if gap["cause"] != "reconnect" || gap["dropped"] != 0.0 || fmt.Sprint(gap["from"]) >= fmt.Sprint(gap["to"]) {
		t.Errorf("%v", gap)
	}
	notify(t, db, channel, "")
	if n := record(t, r.out, "notification"); n["payload"] != "" {
		t.Errorf("%v", n)
	}
	r.stop()
	if code := r.exit(); code != exitSignal+2 {
		t.Errorf("status %d", code)
	}
	for left := range r.errs {
		t.Errorf("on stderr: %q", left)
	}
}

// reconnected reads what comes after a loss, and returns the gap. It may come
// before the event that the session is there, or after it.
func reconnected(t testing.TB, r *running) map[string]any {
	t.Helper()
	if again := record(t, r.out, "reconnecting"); again["attempt"] != 1.0 || again["delay_ms"] != 0.0 {
		t.Errorf("%v", again)
	}
	text := line(t, r.out)
	both := make(chan string, 2)
	if both <- text; strings.Contains(text, `"gap"`) {
		gap := record(t, both, "gap")
		record(t, r.out, "connected")
		return gap
	}
	record(t, both, "connected")
	return record(t, r.out, "gap")
}

func TestListenGapText(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	r := start(t, "listen", "-d", dsn(t), channel)
	var pid int
	connected := await(t, r.errs, "connected to")
	if _, err := fmt.Sscanf(connected[strings.Index(connected, "pid"):], "pid %d", &pid); err != nil {
		t.Fatal(connected)
	}
	await(t, r.errs, "listening")
	terminate(t, db, pid)
	await(t, r.errs, "-- session lost: terminated by an administrator")
	await(t, r.errs, "-- reconnecting")
	await(t, r.errs, "-- GAP: notifications may be missing from ")
	notify(t, db, channel, "after")
	await(t, r.out, "]: after")
}

// A server that cannot be used at the start is an error, and with -wait it is not.
func TestListenNoServer(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"listen", "jobs"}, {"watch"}, {"notify", "jobs"}} {
		code, out, errs := call(t, "", append(command, "-d", "host=127.0.0.1 port=1")...)
		if code != exitFailure || out != "" || !strings.HasPrefix(errs, "pgnotify: ") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: status %d, stdout %q, stderr %q", command, code, out, errs)
		}
	}
	for _, command := range [][]string{{"listen", "jobs"}, {"watch"}} {
		r := start(t, append(command, "-wait", "-json", "-d", "host=127.0.0.1 port=1")...)
		for n := 0; n < 2; {
			if strings.Contains(await(t, r.out, `"kind":"`), `"reconnecting"`) {
				n++
			}
		}
		r.stop()
		if code := r.exit(); code != exitSignal+2 {
			t.Errorf("%v: status %d", command, code)
		}
	}
}

// Of several hosts each has its line, and an outage does not fill the screen.
func TestListenNoHost(t *testing.T) {
	t.Parallel()
	const hosts = "host=127.0.0.1,127.0.0.1 port=1,2"
	for _, command := range [][]string{{"listen", "jobs"}, {"watch"}, {"notify", "jobs"}} {
		_, _, errs := call(t, "", append(command, "-d", hosts)...)
		if !strings.Contains(errs, ":\n    connect to 127.0.0.1:1: ") || !strings.Contains(errs, "\n    connect to 127.0.0.1:2: ") || strings.Count(errs, "pgnotify: ") != 1 {
			t.Errorf("%v: %s", command, errs)
		}
	}
	_, _, errs := call(t, "", "listen", "jobs", "-wait", "-timeout", "2s", "-d", hosts)
	if n := strings.Count(errs, "no session (reconnecting"); n != 1 {
		t.Errorf("told %d times: %s", n, errs)
	}
}

func TestListenNoDatabase(t *testing.T) {
	t.Parallel()
	code, _, errs := call(t, "", "listen", "jobs", "-d", dsn(t)+" dbname=no_such")
	if code != exitFailure || !strings.Contains(errs, "3D000") {
		t.Errorf("status %d, stderr %q", code, errs)
	}
}

// The end of -timeout is as good as any, unless more was wanted.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"listen " + newChannel() + " -timeout 3s", exitOK, ""},
		{"listen " + newChannel() + " -timeout 3s -count 2", exitFailure, "0 of 2 notifications came within 3s"},
		{"watch -timeout 3s -interval 50ms", exitOK, ""},
		{"listen jobs -wait -timeout 100ms -d host=127.0.0.1,port=1", exitFailure, "no session within 100ms"},
		{"watch -wait -timeout 3s -interval 50ms -d host=127.0.0.1,port=1", exitFailure, "no session: "},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			args := strings.Fields(c.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], ",", " ")
			}
			if !strings.Contains(c.args, "-d ") {
				args = append(args, "-d", dsn(t))
			}
			code, _, errs := call(t, "", args...)
			if code != c.code || !strings.Contains(errs, c.want) {
				t.Errorf("status %d, stderr %q", code, errs)
			}
		})
	}
}

// With -probe the session makes sure that notifications arrive.
func TestListenProbe(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	r := start(t, "listen", "-probe", "-count=1", "-d", dsn(t), channel)
	await(t, r.errs, "listening")
	notify(t, db, channel, "hello")
	await(t, r.out, "hello")
	if code := r.exit(); code != exitOK {
		t.Errorf("status %d", code)
	}
}

// Ten thousand at once are printed in order.
func TestListenMany(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	r := start(t, "listen", "-raw", "-d", dsn(t), "-count", "10000", channel)
	await(t, r.errs, "listening")
	if _, err := db.ExecContext(testContext(t), `SELECT pg_notify($1, i::text) FROM generate_series(1, 10000) i`, channel); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 10000; i++ {
		if got := line(t, r.out); got != fmt.Sprint(i) {
			t.Fatalf("%q, want %d", got, i)
		}
	}
	if code := r.exit(); code != exitOK {
		t.Errorf("status %d", code)
	}
}

// The end waits for nothing but what it has begun.
func TestListenEnds(t *testing.T) {
	t.Parallel()
	r := start(t, "listen", "-d", dsn(t), newChannel())
	await(t, r.errs, "listening")
	began := time.Now()
	r.stop()
	if code := r.exit(); code != exitSignal+2 || time.Since(began) > 5*time.Second {
		t.Errorf("status %d after %v", code, time.Since(began))
	}
}
