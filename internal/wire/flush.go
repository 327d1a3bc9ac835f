package wire

import (
	"bytes"
	"io"
)

// For a query with arguments lib/pq sends Parse, Describe and Sync, reads the
// description, and sends Bind, Execute and Sync. The first Sync ends a transaction,
// unless there is an explicit one; a pooler may then run the statements of others on
// the server's session, or give the rest of the request to another session. So the wire
// sends a Flush in place of the first Sync. The server answers the same, but for the
// ReadyForQuery, which lib/pq waits for: the wire makes one up. See docs/design.md.

// A flushState says how far a request is that was begun with a Flush.
type flushState = uint32

const (
	synced     flushState = iota // no such request; or its Sync is sent
	describing                   // Parse, Describe and Flush are sent
	described                    // the server waits for the rest of the request; lib/pq gets our ReadyForQuery
	refused                      // the server has answered with an error, and waits for the Sync
)

// Messages of our own making.
var (
	flushMessage = appendFrame(nil, 'H', nil)

	readyForQuery = map[byte][]byte{ // by transaction status
		'I': appendFrame(nil, 'Z', []byte{'I'}),
		'T': appendFrame(nil, 'Z', []byte{'T'}),
		'E': appendFrame(nil, 'Z', []byte{'E'}),
	}
)

// OneTransaction keeps a statement and its execution in one transaction, until the next
// BeginOperation. It must not be called concurrently with Write.
func (c *Conn) OneTransaction() { c.oneTx = true }

// expect notes what answers p, messages about to be sent, unless that is too much. flush
// says that the Sync at the end of p is to be sent as a Flush. Then lib/pq gets two
// ReadyForQuery, where the server gives one: the session is busy until that has come.
func (c *Conn) expect(p []byte) (flush, ok bool) {
	if c.oneTx && onlyPrepares(p) {
		steps, _ := asked(p[:len(p)-len(syncMessage)])
		c.notes.flush.Store(describing)
		c.notes.awaited.Add(1)
		c.unread.Add(1)
		return true, c.notes.steps.add(steps)
	}
	steps, n := asked(p)
	if !c.notes.steps.add(steps) {
		return false, false
	}
	c.unread.Add(n)
	if n > 0 && c.notes.flush.Load() == described {
		c.notes.flush.Store(synced)
		n--
	}
	c.notes.awaited.Add(n)
	return false, true
}

// onlyPrepares reports whether p is a Parse, a Describe of the statement, and a Sync.
func onlyPrepares(p []byte) bool {
	if len(p) < headerLen || p[0] != 'P' || int(frameSize(p)) >= len(p)-headerLen {
		return false
	}
	p = p[frameSize(p):]
	return p[0] == 'D' && p[headerLen] == 'S' && bytes.HasSuffix(p, syncMessage) &&
		int(frameSize(p)) == len(p)-len(syncMessage)
}

// writeFlush sends p, which ends with a Sync, with a Flush in its place. Long messages
// are not copied for that.
func (c *Conn) writeFlush(p []byte) (n int, err error) {
	end := len(p) - len(syncMessage)
	if len(p) > maxCopied {
		if n, err = c.write(p[:end]); err == nil {
			var more int
			more, err = c.write(flushMessage)
			n += more
		}
	} else {
		buf := scratch.Get().(*[]byte)
		defer scratch.Put(buf)
		*buf = append(append((*buf)[:0], p[:end]...), flushMessage...)
		n, err = c.write(*buf)
	}
	c.sent.Add(int64(n))
	if err != nil {
		err = c.lastWords(err)
	}
	return n, err
}

// sync sends the Sync that a Flush has taken the place of.
func (c *Conn) sync() {
	c.notes.steps.add(uint64(stepSync)) // there is room: nothing but the request was asked
	c.notes.flush.Store(synced)
	n, err := c.write(syncMessage)
	c.sent.Add(int64(n))
	if err != nil {
		_ = c.lastWords(err)
	}
}

// Halfway reports whether lib/pq has taken the description of a statement and has not
// gone on to execute it.
func (c *Conn) Halfway() bool { return c.notes.flush.Load() == described && !c.Unread() }

// Sync ends a request that lib/pq has left Halfway, in place of lib/pq, to which it makes
// no difference. It waits for the server's answer, or the loss of the session.
func (c *Conn) Sync() {
	c.unread.Add(1)
	c.sync()
	var changed [][]byte
	for {
		typ, body, err := c.readMessage()
		if err != nil || typ == 'Z' {
			break
		}
		if typ == 'S' {
			changed = append(changed, body)
		}
	}
	for _, body := range changed { // lib/pq gets it with the next answer
		c.notes.setStale(body)
	}
}

// readMessage reads a message as lib/pq would. It fails when the session is lost.
func (c *Conn) readMessage() (typ byte, body []byte, err error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(c, int64(frameSize(header[:]))-headerLen))
	return header[0], body, err
}

// idle reports whether nothing is asked of the server.
func (s *scanner) idle() bool {
	return s.notes.awaited.Load() == 0 || s.notes.flush.Load() == described
}

// describes notes, for a request that was begun with a Flush, whether the frame being
// forwarded is its description.
func (s *scanner) describes(typ byte) {
	s.description = (typ == 'T' || typ == 'n') && s.notes.flush.Load() == describing
}

// pretendReady gives lib/pq a ReadyForQuery after a description that is complete. The
// transaction status is still that of the last one.
func (s *scanner) pretendReady() {
	s.description, s.ready = false, true
	s.notes.flush.Store(described)
	s.inject = readyForQuery[byte(s.notes.status.Load())]
}

// refuses notes, for a request that was begun with a Flush, that an error has come in
// place of the description. The session's last words need no Sync.
func (s *scanner) refuses(fatal bool) {
	if !fatal && s.notes.flush.Load() == describing {
		s.notes.flush.Store(refused)
	}
}
