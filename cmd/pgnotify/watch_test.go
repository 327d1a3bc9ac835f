package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	code, out, errs := call(t, "", "watch", "-d", dsn(t), "-count", "2", "-interval", "10ms")
	want := regexp.MustCompile(`^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ pid \d+ (primary|standby), up \S+s, round trip \d+\.\d\d ms, heard \S+s ago, queue \d+\.\d%\n){2}$`)
	if code != exitOK || !want.MatchString(out) || !strings.Contains(errs, "connected to") {
		t.Errorf("status %d, stdout\n%s\nstderr\n%s", code, out, errs)
	}
}

func TestWatchJSON(t *testing.T) {
	t.Parallel()
	db := open(t)
	r := start(t, "watch", "-json", "-interval", "10ms", "-d", dsn(t))
	session := record(t, r.out, "connected")
	h := record(t, r.out, "health")
	if h["pid"] != session["pid"] || h["host"] != session["host"] || h["reconnects"] != 0.0 {
		t.Errorf("%v, in the session %v", h, session)
	}
	for _, field := range []string{"connected_since", "last_heard"} {
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(h[field]))
		if err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: %v, %v", field, at, err)
		}
	}
	roundTrip, _ := h["round_trip_ms"].(float64)
	usage, ok := h["queue_usage"].(float64)
	if _, isBool := h["in_recovery"].(bool); roundTrip <= 0 || !ok || usage < 0 || usage > 1 || !isBool {
		t.Errorf("%v", h)
	}
	terminate(t, db, session["pid"])
	await(t, r.out, `"kind":"disconnected"`)
	await(t, r.out, `"kind":"connected"`)
	if again := await(t, r.out, `"kind":"health"`); !strings.Contains(again, `"reconnects":1}`) {
		t.Error(again)
	}
	r.stop()
	if code := r.exit(); code != exitSignal+2 {
		t.Errorf("status %d", code)
	}
}

// With -count it is a check of health: the status is that of the last answer.
func TestWatchUnhealthy(t *testing.T) {
	t.Parallel()
	code, out, errs := call(t, "", "watch", "-wait", "-count=2", "-interval=10ms", "-d", "host=127.0.0.1 port=1")
	if code != exitFailure || strings.Count(out, " UNHEALTHY: no session: connect to 127.0.0.1:1") != 2 || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, stdout\n%s\nstderr\n%s", code, out, errs)
	}
}
