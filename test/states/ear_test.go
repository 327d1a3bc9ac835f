package states_test

import (
	"fmt"
	"sync"

	"github.com/pgnotify/pgnotify"
)

// The server counts the notices and notifications that it sends on each session, and
// says their numbers in them.
type numbers struct {
	pid       uint32
	event     int // of all notices and notifications
	heard     int // of all notifications
	onChannel int // of those of the channel
}

func (n numbers) String() string {
	return fmt.Sprintf("%d %d %d %d", n.pid, n.event, n.heard, n.onChannel)
}

func parseNumbers(text string) (n numbers, ok bool) {
	count, err := fmt.Sscanf(text, "%d %d %d %d", &n.pid, &n.event, &n.heard, &n.onChannel)
	return n, count == 4 && err == nil
}

// An ear hears the notices and notifications of all sessions of a pool. They must come
// in order, and all of them.
type ear struct {
	w *world

	mu   sync.Mutex // guards last
	last map[uint32]int
}

func (e *ear) notice(c *pgnotify.Conn, n *pgnotify.Notice) { e.event(c, n.Message) }

func (e *ear) notification(c *pgnotify.Conn, n pgnotify.Notification) { e.event(c, n.Payload) }

func (e *ear) event(c *pgnotify.Conn, text string) {
	n, ok := parseNumbers(text)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !ok || n.pid != c.PID() || n.event != e.last[n.pid]+1 {
		e.w.fail("session %d heard %q after %d", c.PID(), text, e.last[c.PID()])
	}
	e.last[n.pid] = n.event
}

// heard returns the number of the last event of a session.
func (e *ear) heard(pid uint32) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last[pid]
}

// A taker takes the notifications of one borrower of a session.
type taker struct {
	w        *world
	pid      uint32
	last     int  // of all notifications
	unlisten bool // some were discarded
}

func (t *taker) take(n pgnotify.Notification) {
	got, ok := parseNumbers(n.Payload)
	late := got.heard <= t.last
	missing := t.last != 0 && got.heard != t.last+1 && !t.unlisten
	if !ok || got.pid != t.pid || late || missing {
		t.w.fail("session %d took %q after %d", t.pid, n.Payload, t.last)
	}
	t.last = got.heard
}
