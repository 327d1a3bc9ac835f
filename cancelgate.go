package pgnotify

import (
	"sync"
	"sync/atomic"
)

// A cancelGate stands between Cancel, which any goroutine may call, and the end of the
// request that it targets, so that no cancel request can hit a later one. The zero
// value belongs to a session without a request.
type cancelGate struct {
	count atomic.Uint64 // requests begun plus requests ended: odd while one is under way
	busy  atomic.Bool   // Cancel is sending

	mu      sync.Mutex     // held while Cancel sends; guards pending
	pending *cancelRequest // the requests that Cancel gave up waiting for; a list
}

// open begins a request.
func (g *cancelGate) open() { g.count.Add(1) }

// close ends the request as soon as no Cancel is sending. It returns the cancel
// requests that the server may still act on.
func (g *cancelGate) close() (list *cancelRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count.Add(1)
	pending := g.pending
	g.pending = nil
	return pending
}

// request returns the number of the request under way, or 0 if there is none or it is
// already being cancelled.
func (g *cancelGate) request() uint64 {
	n := g.count.Load()
	if n%2 == 0 || g.busy.Load() {
		return 0
	}
	return n
}

// enter keeps the given request from ending until leave is called. It reports false if
// the request has ended, is ending, or is being cancelled by another Cancel.
func (g *cancelGate) enter(request uint64) bool {
	if !g.mu.TryLock() {
		return false
	}
	if g.count.Load() != request {
		g.mu.Unlock()
		return false
	}
	g.busy.Store(true)
	return true
}

// leave lets the request end. sent is a cancel request not yet taken by the server, or
// nil.
func (g *cancelGate) leave(sent *cancelRequest) {
	if sent != nil {
		sent.next, g.pending = g.pending, sent
	}
	g.busy.Store(false)
	g.mu.Unlock()
}
