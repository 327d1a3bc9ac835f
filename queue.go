package pgnotify

import (
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A queue holds the events of a subscription. The Listener puts events in under its
// lock; any number of goroutines take them out, each event once:
//
//	put ──▶ ring ──▶ take, next, takeAll     until it has an outlet
//	put ──▶ outlet ──▶ whoever receives      after open
//	put ──▶ ring ──▶ pump ──▶ outlet         after openPumped
//
// The ring grows on demand. Takers wait for a bell. During a hold the bell is not rung
// until the whole batch is in the ring: a taker woken by the first event would contend
// for the lock with the goroutine that puts the others, as with a Go channel.
type queue struct {
	size int // the most events, not counting a gap at the end

	// Written under both the Listener's lock and mu, so either suffices for reading. An
	// outlet, once set, never changes, so whoever has seen it needs no lock.
	out    chan Event // the outlet, from which takers receive; nil while there is none
	direct bool       // the outlet replaces the ring

	// The Listener's lock guards these.
	hold    hold
	oldest  time.Time // no event in the queue is older
	gapLast bool      // the last event put was a gap

	mu      sync.Mutex // guards the rest
	ring    ring
	bell    chan struct{} // holds one token; closed and replaced to wake all waiters
	waiting int           // takers that wait for the bell, or have just woken
	held    bool          // takers wait even if the ring is not empty; only while the Listener's lock is held
	closed  bool          // nothing more is put
}

func newQueue(size int) queue { return queue{size: size, bell: make(chan struct{}, 1)} }

// len returns the number of events. The caller holds the Listener's lock.
func (q *queue) len() int {
	if q.direct {
		return len(q.out)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.n
}

// room returns how many more notifications fit when that many events are queued. The
// last place is reserved for a gap, unless a gap was put last.
func (q *queue) room(queued int) int {
	kept := 1
	if q.gapLast {
		kept = 0
	}
	return max(q.size-kept-queued, 0)
}

// half returns the largest number of events that leaves half of the queue free.
func (q *queue) half() int { return (q.size - 1) / 2 }

// put puts as many notifications of a run into the queue as there is room for, and
// returns how many. They arrived at now and go to that many hearers. holds reports
// whether put began a hold, which endHold must end after the batch.
func (q *queue) put(run []wire.Notification, hearers int, now time.Time) (n int, holds bool) {
	if q.direct {
		n = min(q.room(len(q.out)), len(run)) // nobody else sends
		q.gapLast = q.gapLast && n == 0
		for i := range run[:n] {
			q.out <- Event{Notification: Notification(run[i])} // does not block
		}
		return n, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(q.room(q.ring.n), len(run))
	if q.ring.n == 0 {
		q.oldest = now
	}
	q.gapLast = q.gapLast && n == 0
	holds = q.steerLocked(len(run), hearers, now)
	q.hold.sent += uint64(n)
	q.ring.grow(n, q.size+1)
	for i := range run[:n] {
		q.ring.push().Notification = Notification(run[i])
	}
	q.wakeLocked()
	return n, holds
}

// putOne puts one event. The caller has seen room, or is about to close the queue, for
// whose last gap there is one place more than size.
func (q *queue) putOne(e Event) {
	q.gapLast = e.Gap != nil
	if q.direct {
		q.out <- e // does not block: nobody else sends
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ring.n == 0 {
		q.oldest = time.Now()
	}
	q.hold.sent++
	q.ring.grow(1, q.size+1)
	*q.ring.push() = e
	q.wakeLocked()
}

// drain empties the ring. It returns the number of notifications removed, and the gaps
// among them merged into one.
func (q *queue) drain() (notifications int, gap *Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hold.sent -= uint64(q.ring.n) // they were never taken
	for e := (Event{}); q.ring.n > 0; {
		if q.ring.pop(&e); e.Gap == nil {
			notifications++
		} else {
			gap = gap.and(e.Gap)
		}
	}
	return notifications, gap
}

// close lets takers see the end once nothing is left to take.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.direct {
		close(q.out)
	}
	q.wakeAllLocked()
}

// open moves the events into a Go channel, which replaces the ring. Like openPumped, it
// needs the Listener's lock and must not be called when there is an outlet.
func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out, q.direct = make(chan Event, q.size+1), true
	for e := (Event{}); q.ring.n > 0; {
		q.ring.pop(&e)
		q.out <- e
	}
	q.ring = ring{}
	if q.closed {
		close(q.out)
	}
	q.wakeAllLocked()
}

// openPumped makes an outlet, to which the pump sends.
func (q *queue) openPumped() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = make(chan Event) // unbuffered: what precedes a gap has been taken when CatchUp is called
	q.wakeAllLocked()
}

// endHold ends a hold, and wakes a waiting taker.
func (q *queue) endHold() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = false
	q.wakeLocked()
}
