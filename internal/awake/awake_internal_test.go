package awake

import (
	"testing"
	"time"
)

// L27: what a count makes of looks at given times. limit is 800 ms, a step 100 ms.
func TestCount(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type look struct{ at, heard, wait time.Duration } // since the beginning; heard 0: nothing
	for name, looks := range map[string][]look{
		"silence": {
			{100 * ms, 0, 100 * ms}, {200 * ms, 0, 100 * ms}, {300 * ms, 0, 100 * ms}, {400 * ms, 0, 100 * ms},
			{500 * ms, 0, 100 * ms}, {600 * ms, 0, 100 * ms}, {700 * ms, 0, 100 * ms}, {800 * ms, 0, 0},
		},
		"a pause counts as a step": {
			{100 * ms, 0, 100 * ms}, {200 * ms, 0, 100 * ms}, {9 * time.Second, 0, 100 * ms}, {9100 * ms, 0, 100 * ms},
		},
		"a pause at the end is followed by a step": {
			{100 * ms, 0, 100 * ms}, {200 * ms, 0, 100 * ms}, {300 * ms, 0, 100 * ms}, {400 * ms, 0, 100 * ms},
			{500 * ms, 0, 100 * ms}, {600 * ms, 0, 100 * ms}, {700 * ms, 0, 100 * ms}, {9 * time.Second, 0, 100 * ms},
			{9100 * ms, 0, 0},
		},
		"something heard begins again": {
			{100 * ms, 0, 100 * ms}, {200 * ms, 150 * ms, 100 * ms}, {300 * ms, 0, 100 * ms}, {400 * ms, 390 * ms, 100 * ms},
			{500 * ms, 0, 100 * ms}, {600 * ms, 0, 100 * ms}, {700 * ms, 0, 100 * ms}, {800 * ms, 0, 100 * ms},
			{900 * ms, 0, 100 * ms}, {1000 * ms, 0, 100 * ms}, {1100 * ms, 0, 90 * ms}, {1190 * ms, 0, 0},
		},
	} {
		begin := time.Now()
		c := newCount(800*ms, begin)
		for i, l := range looks {
			heard := c.heard
			if l.heard > 0 {
				heard = begin.Add(l.heard)
			}
			if wait := c.look(begin.Add(l.at), heard); wait != l.wait {
				t.Errorf("%s, look %d: wait %v, want %v", name, i+1, wait, l.wait)
			}
		}
	}
}

// A machine that is late each time comes to an end too.
func TestCountThatIsAlwaysLate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := newCount(time.Second, now)
	for looks := 1; ; looks++ {
		now = now.Add(time.Minute)
		if c.look(now, c.heard) == 0 {
			return
		}
		if looks > 3*steps {
			t.Fatal("no end")
		}
	}
}
