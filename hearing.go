package pgnotify

import (
	"context"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify/internal/dispatch"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// handlerPatience bounds how long a statement waits for handlers, at its end or when
// they fall behind.
const handlerPatience = time.Second

// maxWaiting bounds the notices and notifications that wait for handlers, in bytes.
const maxWaiting = 4 << 20

// An event is what handlers are called with: a notice or, if notice is nil,
// notifications.
type event struct {
	notice        *Notice
	notifications []wire.Notification
	lease         uint64 // of the borrower that it came for
}

// weight returns the approximate memory use of the event in bytes.
func (e event) weight() int {
	if e.notice != nil {
		return e.notice.memory()
	}
	return memoryOf(e.notifications)
}

// count returns how many notices or notifications the event has.
func (e event) count() uint64 { return uint64(max(1, len(e.notifications))) }

// A hearing is the part of a session that receives: its handlers, and what waits for
// them or for an iterator. Most sessions of a pool never need one, so it is made on
// first use.
type hearing struct {
	s             *session
	started       chan struct{} // closed when the start-up is over; nil if it was over before
	events        *dispatch.Queue[event]
	owed          atomic.Uint64 // the mark behind the last event that a statement must wait for
	notices       handlers[func(*Notice)]
	notifications handlers[func(Notification)]
	backlog       backlog
	dropped       atomic.Uint64                             // notices and notifications that tellDropped has not logged
	rejected      uint64                                    // events.Dropped, for enqueue only
	feed          atomic.Pointer[func([]wire.Notification)] // a Listener's, in place of the backlog
}

// hear returns the session's hearing, and makes it, for the present lease, if need be.
func (s *session) hear() *hearing {
	if h := s.hearing.Load(); h != nil {
		return h
	}
	s.leaseMu.Lock()
	defer s.leaseMu.Unlock()
	return s.hearLocked()
}

func (s *session) hearLocked() *hearing {
	h := s.hearing.Load()
	if h == nil {
		h = &hearing{s: s, backlog: newBacklog()}
		if s.wire.Status() == 0 {
			h.started = make(chan struct{})
		}
		h.events = dispatch.New(maxWaiting, event.weight, h.handle)
		h.backlog.reset(s.lease.Load())
		s.hearing.Store(h)
		if s.closed {
			h.events.Close()
		}
	}
	return h
}

// startupOver lets the handlers run for events of the start-up.
func (s *session) startupOver() {
	if h := s.hearing.Load(); h != nil && h.started != nil {
		close(h.started)
	}
}

// reset discards what a borrower left. lease is the next borrower's, or 0.
func (h *hearing) reset(lease uint64) {
	h.clearHandlers()
	h.backlog.reset(lease)
}

func (h *hearing) clearHandlers() {
	h.notices.clear()
	h.notifications.clear()
}

// addHandler adds f to one of the session's lists of handlers, unless the handle's
// lease has ended. The lease cannot end during the call.
func addHandler[F any](c *Conn, list func(*hearing) *handlers[F], f F) (remove func()) {
	c.s.leaseMu.Lock()
	defer c.s.leaseMu.Unlock()
	if !c.s.hasLease(c.lease) {
		return func() {}
	}
	return list(c.s.hearLocked()).add(f)
}

// mark returns a point in the sequence of events, for flush.
func (s *session) mark() uint64 {
	if h := s.hearing.Load(); h != nil {
		return h.events.Mark()
	}
	return 0
}

// flush waits until the handlers have run for the notices, and for the session's own
// notifications, that arrived since mark. It does not wait for notifications of other
// sessions, which may come at any rate. A Listener does not wait at all.
func (s *session) flush(ctx context.Context, mark uint64) {
	if h := s.hearing.Load(); h != nil && h.owed.Load() > mark && h.feed.Load() == nil {
		h.events.Flush(ctx, mark, handlerPatience)
	}
}

// Notice implements wire.Events.
func (s *session) Notice(r *wire.Response) {
	h := s.hearing.Load()
	if s.config.OnNotice == nil && (h == nil || h.notices.empty()) {
		return
	}
	h = s.hear()
	h.enqueue(event{notice: (*Notice)(r), lease: s.lease.Load()})
	h.owed.Store(h.events.Mark())
}

// Notifications implements wire.Events.
func (s *session) Notifications(items []wire.Notification) (spare []wire.Notification) {
	h := s.hear()
	if s.config.OnNotification != nil || !h.notifications.empty() {
		pid, _ := s.wire.Backend()
		own := slices.ContainsFunc(items, func(n wire.Notification) bool { return n.PID == pid })
		h.enqueue(event{notifications: slices.Clone(items), lease: s.lease.Load()})
		if own {
			h.owed.Store(h.events.Mark())
		}
	}
	if feed := h.feed.Load(); feed != nil {
		(*feed)(items)
		clear(items)
		return items[:0]
	}
	return h.backlog.put(items)
}

// enqueue queues an event for the handlers. During a request the reader may wait for
// them, as it would for rows, since nothing else arrives meanwhile. A Listener's reader
// never waits.
func (h *hearing) enqueue(e event) {
	var patience time.Duration
	if h.s.wire.Busy() && h.feed.Load() == nil {
		patience = handlerPatience
	}
	if h.events.Put(e, patience) {
		return
	}
	before := h.rejected
	if h.rejected = h.events.Dropped(); h.rejected == before { // the session is closed
		return
	}
	h.dropped.Add(e.count())
	if before == 0 {
		// The program's; nobody waits for it. The handlers may be blocked for good.
		go h.s.log().Warn("pgnotify: handlers do not keep up; notices or notifications are dropped", "pid", h.s.self.PID())
	}
}

// tellDropped logs how much was dropped, once the handlers have caught up with half.
func (h *hearing) tellDropped() {
	if h.dropped.Load() > 0 && h.events.Queued() < maxWaiting/2 {
		h.s.log().Warn("pgnotify: handlers have caught up", "pid", h.s.self.PID(), "dropped", h.dropped.Swap(0))
	}
}

// handle calls the handlers for one event. It waits for the end of the start-up: before
// that, handlers could do little with the session.
func (h *hearing) handle(e event) {
	if h.started != nil {
		<-h.started
	}
	h.tellDropped()
	s := h.s
	if e.notice != nil {
		if f := s.config.OnNotice; f != nil {
			s.protect(func() { f(&s.self, e.notice) })
		}
		for _, f := range theirs(h, &h.notices, e.lease) {
			s.protect(func() { (*f)(e.notice) })
		}
		return
	}
	h.handleNotifications(e)
}

// theirs returns the handlers of the borrower that an event came for, or none if
// another borrower has the session now.
func theirs[F any](h *hearing, list *handlers[F], lease uint64) []*F {
	snapshot := list.snapshot() // first, so that it holds none of a borrower that comes after the check of the lease
	if h.s.lease.Load() != lease {
		return nil
	}
	return snapshot
}

// handleNotifications calls the handlers for each notification of e. A handler that
// ends its goroutine, as testing's FailNow does, ends only its own call.
func (h *hearing) handleNotifications(e event) {
	defer func() {
		if len(e.notifications) > 0 {
			h.handleNotifications(e)
		}
	}()
	for len(e.notifications) > 0 {
		n := Notification(e.notifications[0])
		e.notifications = e.notifications[1:]
		if f := h.s.config.OnNotification; f != nil {
			h.s.protect(func() { f(&h.s.self, n) })
		}
		for _, f := range theirs(h, &h.notifications, e.lease) {
			h.s.protect(func() { (*f)(n) })
		}
	}
}

// protect calls f and logs a panic instead of passing it on.
func (s *session) protect(f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.log().Error("pgnotify: a handler panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}
