package wire

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unique"
)

// notes is what the scanner records for the layers above. All of it may be read at any
// time from any goroutine.
type notes struct {
	steps steps // what the server owes in answer to the request under way

	awaited   atomic.Int32  // ReadyForQuery messages the server still owes
	status    atomic.Uint32 // transaction status of the last ReadyForQuery: 'I', 'T', 'E'; 0 before the first
	listened  atomic.Bool   // a LISTEN took effect, or may have
	listens   atomic.Uint32 // LISTENs and UNLISTENs completed
	undone    atomic.Bool   // the last transaction was rolled back
	bound     atomic.Bool   // the request's statement was found and its arguments were accepted
	outdated  atomic.Bool   // prepared statements are gone, or may have another meaning now
	closing   atomic.Int32  // CloseComplete messages to come that are not for lib/pq
	flush     atomic.Uint32 // a flushState
	columns   atomic.Int32  // 1 more than those of the rows of the Execute under way; 0 if unknown
	refused   atomic.Bool   // a COPY of the operation was refused
	unwanted  atomic.Bool   // nobody wants the rows of the answer under way
	wantsCopy atomic.Bool   // lib/pq knows what to do with a CopyInResponse
	pid       uint32        // see mu

	authenticated atomic.Bool // AuthenticationOk has come

	fatal   atomic.Pointer[Response] // the server's last words
	warning atomic.Pointer[Response] // a notice that the server is about to end, if nothing came since
	failure atomic.Pointer[Response] // the error in an answer that is not complete yet

	mu       sync.Mutex // guards the fields below, and pid
	key      []byte
	params   unique.Handle[string] // alternating names and values, each followed by a zero byte
	starting *[]byte               // the same, until settleParameters; nil before the first and after it
	stale    []string              // names of parameters that lib/pq has not been told of
}

// lastWords returns why the server ends the session, or nil if it has not said so. The
// first reason counts: what a pooler adds is about the connection that the server has
// closed. A warning came before the fatal error, or is not noted.
func (n *notes) lastWords() *Response {
	if warning := n.warning.Load(); warning != nil {
		return warning
	}
	return n.fatal.Load()
}

// maxParams bounds the total size of the names and values of the parameters that the
// server reports; PostgreSQL 18 has 15 of them, some 400 bytes.
const maxParams = 64 << 10

// setParameter records the body of a ParameterStatus. A parameter that lib/pq is not
// told of at once is stale.
func (n *notes) setParameter(body []byte, stale bool) error {
	name, rest, ok := bytes.Cut(body, []byte{0})
	if !ok || len(rest) == 0 || bytes.IndexByte(rest, 0) != len(rest)-1 {
		return &FrameError{Type: 'S', Reason: "a string has no terminator"}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.settledLocked() {
		if n.starting == nil {
			n.starting = new([]byte)
		}
		*n.starting = append(*n.starting, body...)
		if len(*n.starting) > maxParams {
			return errTooManyParams
		}
	} else if err := n.changeParameterLocked(string(name), string(body)); err != nil {
		return err
	}
	if n.settledLocked() && !isHarmless(string(name)) {
		n.outdated.Store(true)
	}
	if stale && !slices.Contains(n.stale, string(name)) {
		n.stale = append(n.stale, string(name))
	}
	return nil
}

// isHarmless reports whether a parameter affects neither how names and literals are read
// when a statement is prepared nor what they stand for.
func isHarmless(name string) bool {
	switch name {
	case "application_name", "default_transaction_read_only", "in_hot_standby", "scram_iterations", "server_version":
		return true
	}
	return false
}

var errTooManyParams = &FrameError{Type: 'S', Reason: "too many parameters"}

func (n *notes) changeParameterLocked(name, body string) error {
	params := n.params.Value()
	if at, end, ok := findParameter(params, name); ok {
		params = params[:at] + body + params[end:]
	} else {
		params += body
	}
	if len(params) > maxParams {
		return errTooManyParams
	}
	n.params = unique.Make(params)
	return nil
}

// settleParameters is called at the end of the start-up. Most sessions of a process
// have the same parameters, so they share one string.
func (n *notes) settleParameters() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.params, n.starting = unique.Make(n.paramsLocked()), nil
}

func (n *notes) settledLocked() bool { return n.params != unique.Handle[string]{} }

func (n *notes) paramsLocked() string {
	switch {
	case n.settledLocked():
		return n.params.Value()
	case n.starting != nil:
		return string(*n.starting)
	}
	return ""
}

// findParameter returns the position of a parameter's last entry in params: a server
// may report a parameter again.
func findParameter(params, name string) (at, end int, ok bool) {
	for from := 0; from < len(params); {
		key := from + strings.IndexByte(params[from:], 0)
		next := key + 1
		next += strings.IndexByte(params[next:], 0) + 1
		if params[from:key] == name {
			at, end, ok = from, next, true
		}
		from = next
	}
	return at, end, ok
}

func (n *notes) parameter(name string) (string, bool) {
	n.mu.Lock()
	params := n.paramsLocked()
	n.mu.Unlock()
	at, end, ok := findParameter(params, name)
	if !ok {
		return "", false
	}
	return params[at+len(name)+1 : end-1], true
}

// setStale notes that lib/pq has not been told of the parameter in the body of a
// ParameterStatus.
func (n *notes) setStale(body []byte) {
	name, _, _ := bytes.Cut(body, []byte{0})
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.stale, string(name)) {
		n.stale = append(n.stale, string(name))
	}
}

// takeStale returns a ParameterStatus message for each parameter that lib/pq has not
// been told of, or nil.
func (n *notes) takeStale() (out []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range n.stale {
		if at, end, ok := findParameter(n.paramsLocked(), name); ok {
			out = appendFrame(out, 'S', []byte(n.paramsLocked()[at:end]))
		}
	}
	n.stale = nil
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

// A listenTracker derives from command tags whether the session listens. LISTEN takes
// effect when its transaction commits. UNLISTEN is ignored, because its tag does not
// name the channel, so a session that once listened counts as listening. The same holds
// after ROLLBACK TO SAVEPOINT.
type listenTracker struct {
	pending    bool // LISTEN in a transaction that has not ended
	rolledBack bool // ROLLBACK was the last word on the transaction
	failed     bool // an error since the last ReadyForQuery
}

var (
	tagListen   = []byte("LISTEN\x00")
	tagUnlisten = []byte("UNLISTEN\x00")
	tagCommit   = []byte("COMMIT\x00")
	tagRollback = []byte("ROLLBACK\x00")

	tagDeallocate = []byte("DEALLOCATE")
	tagDiscard    = []byte("DISCARD")
)

// tag examines the tag of a CommandComplete and reports whether it made a LISTEN take
// effect.
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

// ready examines the status of a ReadyForQuery and reports whether it made a LISTEN
// take effect: outside a transaction block the statements since the last ReadyForQuery
// are committed, unless one of them failed. undone says whether a transaction has ended
// by being rolled back.
func (t *listenTracker) ready(status byte) (listens, undone bool) {
	if status != 'I' {
		t.failed = false
		return false, false
	}
	undone = t.rolledBack || t.failed
	listens = t.pending && !undone
	*t = listenTracker{}
	return listens, undone
}

func appendFrame(dst []byte, typ byte, body []byte) []byte {
	dst = append(dst, typ)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)+4))
	return append(dst, body...)
}
