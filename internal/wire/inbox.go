package wire

import (
	"errors"
	"sync"
	"sync/atomic"
)

// inboxSize bounds the bytes that wait for lib/pq. If more of a result arrives than the
// program takes, the goroutine that reads the socket waits; nothing else comes while a
// result is under way.
const inboxSize = 256 << 10

// An inbox passes bytes from the goroutine that reads the socket to the one that runs
// lib/pq. A read from it gives a ReadyForQuery by itself.
type inbox struct {
	mu    sync.Mutex // guards the fields below
	moved sync.Cond  // something was put or read, or err was set
	buf   []byte
	r     int
	stops []int // where in buf a ReadyForQuery ends
	calls calls // to be made by whoever reads the empty inbox
	err   error // what a read of the empty inbox returns
}

func newInbox() *inbox {
	in := new(inbox)
	in.moved.L = &in.mu
	return in
}

// put appends b, after waiting while the inbox is full. ready says that b ends with a
// ReadyForQuery. It reports false if the inbox was closed.
func (in *inbox) put(b []byte, ready bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.buf)-in.r > inboxSize && in.err == nil {
		in.moved.Wait()
	}
	if in.err != nil {
		return false
	}
	if in.r > 0 && len(in.buf)+len(b) > cap(in.buf) {
		in.compact()
	}
	in.buf = append(in.buf, b...)
	if ready {
		in.stops = append(in.stops, len(in.buf))
	}
	in.moved.Broadcast()
	return true
}

// compact makes room for more by dropping what was read.
func (in *inbox) compact() {
	in.buf = in.buf[:copy(in.buf, in.buf[in.r:])]
	for i := range in.stops {
		in.stops[i] -= in.r
	}
	in.r = 0
}

// read waits for bytes or an error, and says whether the bytes end with a ReadyForQuery.
// Bytes put before the error come first. If unread says that nothing is to come, read
// fails with errNothingAsked, and with errCall if there are calls to be made.
func (in *inbox) read(p []byte, unread *atomic.Int32) (n int, ready bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.r == len(in.buf) && in.err == nil {
		if in.calls != 0 {
			return 0, false, errCall
		}
		if unread.Load() == 0 {
			return 0, false, errNothingAsked
		}
		in.moved.Wait()
	}
	if in.r == len(in.buf) {
		return 0, false, in.err
	}
	end := len(in.buf)
	if len(in.stops) > 0 {
		if end = in.stops[0]; in.r < end-readySize {
			end -= readySize
		}
	}
	n = copy(p, in.buf[in.r:end])
	in.r += n
	if ready = len(in.stops) > 0 && in.r == in.stops[0]; ready {
		in.stops = append(in.stops[:0], in.stops[1:]...)
		in.calls &^= callExcess // too late, and it must not hit a later request
	}
	if in.r == len(in.buf) {
		in.reset()
	}
	in.moved.Broadcast()
	return n, ready, nil
}

// errCall has the caller of read make the calls.
var errCall = errors.New("calls to be made")

// call has the next read of the empty inbox make calls.
func (in *inbox) call(calls calls) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.calls |= calls
	in.moved.Broadcast()
}

func (in *inbox) takeCalls() calls {
	in.mu.Lock()
	defer in.mu.Unlock()
	calls := in.calls
	in.calls = 0
	return calls
}

// reset empties the inbox, and keeps its memory unless it is large.
func (in *inbox) reset() {
	in.r = 0
	if in.buf = in.buf[:0]; cap(in.buf) > bufSize {
		in.buf = nil
	}
}

// close makes reads of the emptied inbox, and puts, fail. The first error stays.
func (in *inbox) close(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = err
	}
	in.moved.Broadcast()
}
