package pgnotify

import (
	"sync"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A queue holds the events of a subscription. The Listener puts them in, under its
// lock, and any number of goroutines take them out, each event once:
//
//	put ──▶ ring ──▶ take, next, takeAll     until it has an outlet
//	put ──▶ outlet ──▶ whoever receives      after open
//	put ──▶ ring ──▶ pump ──▶ outlet         after openPumped
//
// The ring grows as it is needed. Who takes from it waits for a bell. That is not rung
// for the first of many that come together, as long as there is a hold: who is woken by
// that gets into the way of who puts the others, as with a Go channel.
type queue struct {
	size int // the most events, but for a gap at the end

	// Written under the Listener's lock and mu, so that either will do for reading. The
	// outlet does not change when there is one, so who has seen it needs none.
	out    chan Event // the outlet: takers take from it; nil while there is none
	direct bool       // the outlet is in place of the ring

	// The Listener's lock guards these.
	hold    hold
	oldest  time.Time // nothing in the queue came before
	gapLast bool      // what was put last is a gap

	mu      sync.Mutex // guards the rest
	ring    ring
	bell    chan struct{} // has room for one; closed and replaced for all who wait
	waiting int           // takers who wait for the bell, or come from it
	held    bool          // takers wait even if the ring is not empty; while the Listener's lock is held
	closed  bool          // nothing is put any more
}

func newQueue(size int) queue { return queue{size: size, bell: make(chan struct{}, 1)} }

// len returns how many events there are. It is for who holds the Listener's lock.
func (q *queue) len() int {
	if q.direct {
		return len(q.out)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.n
}

// room returns how many notifications may be put, besides so many events: the last place
// is kept for a gap, unless one has just been put.
func (q *queue) room(queued int) int {
	kept := 1
	if q.gapLast {
		kept = 0
	}
	return max(q.size-kept-queued, 0)
}

// half is how many events there may be when half of the queue is free.
func (q *queue) half() int { return (q.size - 1) / 2 }

// put puts as many notifications of a run into the queue as there is room for, and
// returns how many. They came at a time, and go to so many hearers. It reports whether
// it has begun a hold, which endHold is to end when the batch is over.
func (q *queue) put(run []wire.Notification, hearers int, now time.Time) (n int, holds bool) {
	if q.direct {
		n = min(q.room(len(q.out)), len(run)) // nobody else sends
		q.gapLast = q.gapLast && n == 0
		for i := range run[:n] {
			q.out <- Event{Notification: Notification(run[i])} // does not wait
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

// putOne puts an event into a queue that the caller has seen not to be full, or is
// about to close: there is one more place than size, for a gap at the end.
func (q *queue) putOne(e Event) {
	q.gapLast = e.Gap != nil
	if q.direct {
		q.out <- e // does not wait: nobody else sends
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

// drain takes all out of the ring, and returns how many notifications that were, and
// the gaps that were among them as one.
func (q *queue) drain() (notifications int, gap *Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hold.sent -= uint64(q.ring.n) // nobody has taken them
	for e := (Event{}); q.ring.n > 0; {
		if q.ring.pop(&e); e.Gap == nil {
			notifications++
		} else {
			gap = gap.and(e.Gap)
		}
	}
	return notifications, gap
}

// close has takers learn of the end when there is nothing left to take.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.direct {
		close(q.out)
	}
	q.wakeAllLocked()
}

// open makes a Go channel the place of the events. It needs the Listener's lock, and that
// there is no outlet yet, as openPumped does.
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

// openPumped makes an outlet that the caller sends to.
func (q *queue) openPumped() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = make(chan Event) // without room: what comes before a gap was taken before CatchUp is called
	q.wakeAllLocked()
}

// endHold ends a hold, and wakes who waits.
func (q *queue) endHold() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = false
	q.wakeLocked()
}
