package pgnotify

import (
	"slices"
	"strings"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A topic is a channel that a Listener hears, or is about to. The Listener's lock
// guards it.
//
//	             subscribed               acknowledged
//	(no topic) ─────────────▶ wanted ─────────────────────▶ heard
//	     ▲                      ▲ session lost, LISTEN lost   │
//	     │                      └─────────────────────────────┤
//	     └──────────── UNLISTEN acknowledged ◀── no subscriber ┘
type topic struct {
	name  string
	subs  []*Subscription
	asked bool // LISTEN is under way
	heard bool // LISTEN is acknowledged on the present session, and UNLISTEN not asked for
}

// A seat is a subscription's place in a topic.
type seat struct {
	topic *topic
	at    int // in topic.subs
}

// join gives s a seat in the topic.
func (t *topic) join(s *Subscription) {
	s.seats = append(s.seats, seat{t, len(t.subs)})
	t.subs = append(t.subs, s)
}

// leave takes a seat back; the last subscriber moves to it. Seats are in the order
// of their channels.
func (t *topic) leave(at int) {
	last := len(t.subs) - 1
	moved := t.subs[last]
	t.subs[at], t.subs[last] = moved, nil
	t.subs = t.subs[:last]
	if at == last {
		return
	}
	i, _ := slices.BinarySearchFunc(moved.seats, t.name, func(s seat, name string) int {
		return strings.Compare(s.topic.name, name)
	})
	moved.seats[i].at = at
}

// run returns the first of items, and as many behind it as are the topic's too and
// to be delivered together.
func (t *topic) run(items []wire.Notification) []wire.Notification {
	limit := min(len(items), maxRun, maxRunDeliveries/max(len(t.subs), 1))
	name, n := items[0].Channel, 1 // the session's own string: equal ones have the same bytes
	for n < limit && items[n].Channel == name {
		n++
	}
	return items[:n]
}

// deliver gives a run to the subscribers, and returns to how many queues its
// notifications came.
func (t *topic) deliver(run []wire.Notification) (delivered int) {
	for i := len(t.subs) - 1; i >= 0; i-- { // from the end: a slow one may leave
		delivered += t.subs[i].putRun(run, len(t.subs))
	}
	return delivered
}

// A change is what one round trip changes in what the session listens to: all of
// it or, where the server refuses, nothing.
type change struct {
	listen, unlisten []*topic
	part             bool // of a change that was refused
	done             bool // acknowledged
}

func (c *change) size() int { return len(c.listen) + len(c.unlisten) }

// statements returns the change as one message: the server makes one transaction
// of it.
func (c *change) statements() string {
	var sql strings.Builder
	for _, t := range c.unlisten {
		sql.WriteString("UNLISTEN " + pq.QuoteIdentifier(t.name) + ";")
	}
	for _, t := range c.listen {
		sql.WriteString("LISTEN " + pq.QuoteIdentifier(t.name) + ";")
	}
	return sql.String()
}

// halves splits the change.
func (c *change) halves() []*change {
	half := len(c.listen) / 2
	if half == 0 {
		return []*change{{unlisten: c.unlisten, part: true}, {listen: c.listen, part: true}}
	}
	return []*change{
		{unlisten: c.unlisten, listen: c.listen[:half], part: true},
		{listen: c.listen[half:], part: true},
	}
}

// takeChange returns how the session's channels differ from those wanted. The
// topics of the change are marked as asked for.
func (l *Listener) takeChange() *change {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := new(change)
	for t := range l.changed {
		switch wanted := len(t.subs) > 0; {
		case wanted && !t.heard:
			c.listen = append(c.listen, t)
		case !wanted && t.heard:
			t.heard = false // who subscribes now waits for another LISTEN
			c.unlisten = append(c.unlisten, t)
		case !wanted:
			l.forgetLocked(t)
		}
	}
	clear(l.changed)
	return c
}

// begin notes that a change is being sent.
func (l *Listener) begin(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight = c
	for _, t := range c.listen {
		t.asked = true
	}
}

// acknowledgeLocked notes that the server has made a change. Whichever learns of it
// first calls it: who sent it, or the reader, by a notification of a channel that was
// not heard before. So what that brings stands behind what the change does to the
// subscribers' streams.
func (l *Listener) acknowledgeLocked(c *change) {
	if c.done {
		return
	}
	c.done = true
	for _, t := range c.listen {
		t.asked, t.heard = false, true
		for _, s := range t.subs {
			if s.missing--; s.missing == 0 {
				s.hears()
			}
		}
		if len(t.subs) == 0 { // all left meanwhile
			l.changed[t] = struct{}{}
		}
	}
	for _, t := range c.unlisten {
		if len(t.subs) == 0 {
			l.forgetLocked(t)
		}
	}
	if c.part {
		c.breakInParts()
	}
}

// breakInParts has a gap come for those who hear of a channel of the change before
// others of theirs are heard again. Another one comes with the last of those.
func (c *change) breakInParts() {
	told := make(map[*Subscription]bool)
	for _, t := range c.listen {
		for _, s := range t.subs {
			if s.live && s.broken != nil && !told[s] {
				told[s] = true
				s.owe(s.broken)
			}
		}
	}
}

// unwantedLocked is called with a topic that its last subscriber has left.
func (l *Listener) unwantedLocked(t *topic) {
	if l.link != nil {
		l.changed[t] = struct{}{}
		return
	}
	delete(l.changed, t) // nobody will look at it, for as long as there is no session
	l.forgetLocked(t)
}

// forgetLocked drops a topic that nobody wants and the server does not know.
func (l *Listener) forgetLocked(t *topic) {
	if l.topics[t.name] == t { // not the next one of that name
		delete(l.topics, t.name)
	}
}

// heardLocked is called with the topic of a notification that has come.
func (l *Listener) heardLocked(t *topic) {
	if t.asked {
		l.acknowledgeLocked(l.flight)
	}
}

// failed takes a change back that was not made.
func (l *Listener) failed(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight = nil
	for _, t := range c.listen {
		t.asked = false
	}
}
