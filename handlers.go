package pgnotify

import (
	"slices"
	"sync"
	"sync/atomic"
)

// handlers is a list of functions that may change while it is being walked. The zero
// value is empty. Its methods are safe for concurrent use.
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

// snapshot returns the present list, which the caller must not change.
func (h *handlers[F]) snapshot() []*F {
	if list := h.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (h *handlers[F]) empty() bool { return len(h.snapshot()) == 0 }

func (h *handlers[F]) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list.Store(nil)
}
