package pgnotify

import (
	"slices"
	"strings"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A topic is a channel that a Listener listens to, or is about to. The Listener's lock
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
	heard bool // LISTEN is acknowledged on the present session, and no UNLISTEN was sent since
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

// leave gives up a seat, and moves the last subscriber to it. Seats are sorted by
// channel.
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

// run returns the first item and those directly behind it that belong to the same topic
// and may be delivered together.
func (t *topic) run(items []wire.Notification) []wire.Notification {
	limit := min(len(items), maxRun, maxRunDeliveries/max(len(t.subs), 1))
	name, n := items[0].Channel, 1 // the session's own string: equal names share their bytes
	for n < limit && items[n].Channel == name {
		n++
	}
	return items[:n]
}

// deliver gives a run to the subscribers. It returns into how many queues the run's
// notifications went.
func (t *topic) deliver(run []wire.Notification) (delivered int) {
	for i := len(t.subs) - 1; i >= 0; i-- { // from the end: a slow one may leave
		delivered += t.subs[i].putRun(run, len(t.subs))
	}
	return delivered
}

// A change is what one round trip changes in the set of channels that the session
// listens to. If the server refuses it, nothing changes.
type change struct {
	listen, unlisten []*topic
	part             bool   // of a change that was refused
	before           uint32 // what wire.Conn.Listens was when it was sent
	done             bool   // acknowledged
}

func (c *change) size() int { return len(c.listen) + len(c.unlisten) }

// statements returns the change as one message, which the server runs as one
// transaction.
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

// takeChange returns how the session's channels differ from those wanted. It marks
// channels to UNLISTEN as no longer heard.
func (l *Listener) takeChange() *change {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := new(change)
	for t := range l.changed {
		switch wanted := len(t.subs) > 0; {
		case wanted && !t.heard:
			c.listen = append(c.listen, t)
		case !wanted && t.heard:
			t.heard = false // a new subscriber waits for another LISTEN
			c.unlisten = append(c.unlisten, t)
		case !wanted:
			l.forgetLocked(t)
		}
	}
	clear(l.changed)
	return c
}

// begin notes that a change is about to be sent. The caller has the session's turn.
func (l *Listener) begin(k *link, c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight, c.before = c, k.listens()
	for _, t := range c.listen {
		t.asked = true
	}
}

// acknowledge is acknowledgeLocked for the sender.
func (l *Listener) acknowledge(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acknowledgeLocked(c)
}

// acknowledgeLocked notes that the server has made a change. The first to learn of it
// calls it: the sender, or the reader, when a notification follows the server's answer.
// So the subscribers' streams are updated before that notification is put into them.
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
		if len(t.subs) == 0 { // all have left meanwhile
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

// breakInParts gives a gap to subscribers that hear one channel of this part again
// while others of theirs are still missing. The last of those brings another gap.
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

// unwantedLocked is called when a topic's last subscriber has left.
func (l *Listener) unwantedLocked(t *topic) {
	if l.link != nil {
		l.changed[t] = struct{}{}
		return
	}
	delete(l.changed, t) // without a session nobody will look at it
	l.forgetLocked(t)
}

// forgetLocked drops a topic that has no subscriber and that the server does not know.
func (l *Listener) forgetLocked(t *topic) {
	if l.topics[t.name] == t { // not a later topic of the same name
		delete(l.topics, t.name)
	}
}

// hearsLocked reports whether a notification that has arrived is to be delivered. Until
// the server has made the change that asks for its channel, it is not: the session may
// listen without the Listener's doing, and what is missed is in the gap to come.
func (l *Listener) hearsLocked(k *link, t *topic) bool {
	if t.asked && k.listens()-l.flight.before >= uint32(l.flight.size()) {
		l.acknowledgeLocked(l.flight)
	}
	return t.heard
}

// failed takes back a change that the server did not make.
func (l *Listener) failed(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight = nil
	for _, t := range c.listen {
		t.asked = false
	}
}
