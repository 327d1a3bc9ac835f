package pgnotify

import (
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// handlerPatience bounds how long a statement waits for handlers, at its end or
// when they fall behind.
const handlerPatience = time.Second

// maxEvents bounds how many notices and notifications wait for handlers.
const maxEvents = 4096

// An event is something that handlers are called with: a notice or, where it is
// nil, a notification.
type event struct {
	notice       *Notice
	notification Notification
}

// handlers is a list of functions that may change while it is being walked.
// The zero value is empty. Methods are safe for concurrent use.
type handlers[F any] struct {
	mu   sync.Mutex // serialises changes of list
	list atomic.Pointer[[]*F]
}

func (h *handlers[F]) add(f F) (remove func()) {
	entry := &f
	h.change(func(list []*F) []*F { return append(list, entry) })
	return func() {
		h.change(func(list []*F) []*F {
			return slices.DeleteFunc(list, func(e *F) bool { return e == entry })
		})
	}
}

// change replaces the list by a changed copy.
func (h *handlers[F]) change(f func([]*F) []*F) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := f(slices.Clone(h.snapshot()))
	h.list.Store(&list)
}

// snapshot returns the list as it is; it must not be changed.
func (h *handlers[F]) snapshot() []*F {
	if list := h.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (h *handlers[F]) empty() bool { return len(h.snapshot()) == 0 }

func (h *handlers[F]) clear() {
	h.change(func([]*F) []*F { return nil })
}

// addHandler adds f unless the handle's lease has ended, which it cannot do
// meanwhile: the next borrower must not find it.
func addHandler[F any](c *Conn, h *handlers[F], f F) (remove func()) {
	c.s.leaseMu.Lock()
	defer c.s.leaseMu.Unlock()
	if !c.s.hasLease(c.lease) {
		return func() {}
	}
	return h.add(f)
}

// enqueue queues an event for the handlers. While a request is under way the
// reader may wait for them, as it would for rows: nothing else comes meanwhile.
func (s *session) enqueue(e event) {
	var patience time.Duration
	if s.wire.Busy() {
		patience = handlerPatience
	}
	if !s.events.Put(e, patience) && s.events.Dropped() == 1 {
		s.log().Warn("pgnotify: handlers do not keep up; notices or notifications are dropped")
	}
}

// handle calls the handlers for one event.
func (s *session) handle(e event) {
	if e.notice != nil {
		if f := s.config.OnNotice; f != nil {
			s.protect(func() { f(&s.self, e.notice) })
		}
		for _, f := range s.noticeHandlers.snapshot() {
			s.protect(func() { (*f)(e.notice) })
		}
		return
	}
	if f := s.config.OnNotification; f != nil {
		s.protect(func() { f(&s.self, e.notification) })
	}
	for _, f := range s.notificationHandlers.snapshot() {
		s.protect(func() { (*f)(e.notification) })
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

// Notifications implements wire.Events.
func (s *session) Notifications(items []wire.Notification) (spare []wire.Notification) {
	if s.config.OnNotification != nil || !s.notificationHandlers.empty() {
		for _, n := range items {
			s.enqueue(event{notification: Notification(n)})
		}
	}
	return s.backlog.put(items)
}
