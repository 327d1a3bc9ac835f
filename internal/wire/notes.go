package wire

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"unique"
)

// notes is what the scanner writes down for the layers above. All of it may be
// read at any time from any goroutine.
type notes struct {
	awaited  atomic.Int32  // ReadyForQuery messages the server still owes
	status   atomic.Uint32 // transaction status of the last ReadyForQuery: 'I', 'T', 'E'; 0 before the first
	listened atomic.Bool   // a LISTEN took effect, or may have
	fatal    atomic.Pointer[Response]

	mu     sync.Mutex // guards the fields below
	pid    uint32
	key    []byte
	params []parameter
	stale  bool // some parameter is stale
}

// A parameter is a run-time setting that the server reports. Name and value are
// shared by all sessions of the process, most of which hold the same ones.
type parameter struct {
	name, value unique.Handle[string]
	stale       bool // lib/pq has not been told of the value
}

// maxParams bounds the parameters of a session; PostgreSQL 18 reports 15.
const maxParams = 256

// setParameter notes the body of a ParameterStatus. A parameter that lib/pq is
// not told of at once is stale.
func (n *notes) setParameter(body []byte, stale bool) error {
	name, rest, ok := bytes.Cut(body, []byte{0})
	value, end, ok2 := bytes.Cut(rest, []byte{0})
	if !ok || !ok2 || len(end) != 0 {
		return &FrameError{Type: 'S', Reason: "a string has no terminator"}
	}
	p := parameter{name: unique.Make(string(name)), value: unique.Make(string(value)), stale: stale}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = n.stale || stale
	i := slices.IndexFunc(n.params, func(q parameter) bool { return q.name == p.name })
	switch {
	case i >= 0:
		n.params[i] = p
	case len(n.params) >= maxParams:
		return &FrameError{Type: 'S', Reason: "too many parameters"}
	default:
		n.params = append(n.params, p)
	}
	return nil
}

func (n *notes) parameter(name string) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.params {
		if p.name.Value() == name {
			return p.value.Value(), true
		}
	}
	return "", false
}

// takeStale returns a ParameterStatus message for each parameter that lib/pq
// has not been told of, nil where there is none.
func (n *notes) takeStale() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stale {
		return nil
	}
	n.stale = false
	var out []byte
	for i := range n.params {
		if p := &n.params[i]; p.stale {
			p.stale = false
			out = appendFrame(out, 'S', []byte(p.name.Value()+"\x00"+p.value.Value()+"\x00"))
		}
	}
	return out
}

// setKey notes the body of a BackendKeyData. Keys have 4 bytes up to protocol
// 3.0 and up to 256 from 3.2 on.
func (n *notes) setKey(body []byte) error {
	if len(body) < 8 || len(body) > 4+256 {
		return &FrameError{Type: 'K', Reason: "the cancel key has no valid length"}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pid, n.key = binary.BigEndian.Uint32(body), bytes.Clone(body[4:])
	return nil
}

func (n *notes) backend() (pid uint32, key []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pid, n.key
}

// A listenTracker tells from command tags whether the session listens. LISTEN
// takes effect when its transaction commits. UNLISTEN is not looked at: its tag
// does not say what it was for, so a session that once listened counts as
// listening. The same holds after ROLLBACK TO SAVEPOINT.
type listenTracker struct {
	pending    bool // LISTEN in a transaction that has not ended
	rolledBack bool // ROLLBACK was the last word on the transaction
	failed     bool // an error since the last ReadyForQuery
}

var (
	tagListen   = []byte("LISTEN\x00")
	tagCommit   = []byte("COMMIT\x00")
	tagRollback = []byte("ROLLBACK\x00")
)

// tag looks at the tag of a CommandComplete and reports whether it made a
// LISTEN take effect.
func (t *listenTracker) tag(tag []byte) (listens bool) {
	switch tag[0] {
	case 'L':
		if bytes.Equal(tag, tagListen) {
			t.pending, t.rolledBack = true, false
		}
	case 'C':
		if bytes.Equal(tag, tagCommit) {
			listens = t.pending
			*t = listenTracker{}
		}
	case 'R':
		t.rolledBack = t.rolledBack || bytes.Equal(tag, tagRollback)
	}
	return listens
}

// ready looks at the status of a ReadyForQuery and reports whether it made a
// LISTEN take effect: outside a transaction block the statements since the last
// one are committed, unless one of them failed.
func (t *listenTracker) ready(status byte) (listens bool) {
	if status != 'I' {
		t.failed = false
		return false
	}
	listens = t.pending && !t.rolledBack && !t.failed
	*t = listenTracker{}
	return listens
}

func appendFrame(dst []byte, typ byte, body []byte) []byte {
	dst = append(dst, typ)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)+4))
	return append(dst, body...)
}
