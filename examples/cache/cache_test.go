package main

import (
	"testing"

	"github.com/pgnotify/pgnotify"
)

// Word of a change may overtake the answer to a query that still saw the old value.
func TestOldAnswerIsNotKept(t *testing.T) {
	c := &cache{
		told:   func(string, ...any) {},
		values: make(map[string]string), reads: make(map[string]*reading),
	}
	checkNotKept(t, c, "after a change", func() { c.forget("apple") })
	checkNotKept(t, c, "after CatchUp", func() { _ = c.catchUp(t.Context(), pgnotify.Gap{}) })
	checkNotKept(t, c, "after the end", c.end)
}

func checkNotKept(t *testing.T, c *cache, name string, word func()) {
	t.Helper()
	_, _, r := c.look("apple")
	word()
	c.keep(r, "old", nil)
	if value, hit, _ := c.look("apple"); hit {
		t.Errorf("%s: %q was kept", name, value)
	}
}
