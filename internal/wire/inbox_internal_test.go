package wire

import (
	"sync/atomic"
	"testing"
)

// Excess is not called for an answer that lib/pq has already taken: it would have the next
// request cancelled.
func TestExcessIsNotLate(t *testing.T) {
	var unread atomic.Int32
	unread.Store(1)
	in := newInbox()
	in.call(callExcess)
	in.put(appendFrame(nil, 'Z', []byte("I")), true)
	p := make([]byte, 64)
	if _, ready, err := in.read(p, &unread); !ready || err != nil {
		t.Fatalf("ready %v, %v", ready, err)
	}
	if calls := in.takeCalls(); calls != 0 {
		t.Errorf("%b are still to be made", calls)
	}
}
