package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"sync"
)

// In each session lib/pq counts its prepared statements: "1", "2", and so on. Behind a
// pooler that shares the server's sessions, a Bind could reach a session where another
// client's "1" exists, and would run that. So names are made unique on their way, by a
// prefix that no other session has; then the worst outcome is an error.

// prefixSize is the length of a prefix. A name has at most 63 bytes.
const prefixSize = 18

// A namer makes the names of a session's prepared statements unique. It is used by
// one goroutine at a time.
type namer struct {
	prefix    [prefixSize]byte
	prepared  string   // the last statement parsed, as the server knows it
	forgotten []string // statements to be closed with the next Parse
	held      []byte   // a Close that is sent with the next Sync
}

func newNamer() *namer {
	n := new(namer)
	var random [(prefixSize - 2) / 2]byte
	_, _ = rand.Read(random[:])
	n.prefix[0] = 'p'
	hex.Encode(n.prefix[1:], random[:])
	n.prefix[prefixSize-1] = '_'
	return n
}

// maxCopied is the largest message whose arguments are copied, so that they are sent in
// one piece with the name before them.
const maxCopied = 32 << 10

// mayName reports whether p, whole messages of lib/pq, may contain a name to rewrite:
// lib/pq puts a Parse or Close first, or a Bind and no other name.
func mayName(p []byte) bool {
	return len(p) > headerLen && (p[0] == 'P' || p[0] == 'B' || p[0] == 'C') && nameIn(p) > 0
}

// rewrite appends to out the messages in p with the names that the server knows. In
// front of a Parse it puts a Close for each forgotten statement, and counts these. left
// is the rest of p, to be sent as it is.
func (n *namer) rewrite(out, p []byte) (_, left []byte, closes int) {
	if p[0] == 'P' {
		out, closes = n.closeForgotten(out)
	}
	for len(p) > headerLen {
		size := int(frameSize(p))
		if size > len(p) {
			break
		}
		at := nameIn(p[:size])
		if at == 0 {
			out, p = append(out, p[:size]...), p[size:]
			continue
		}
		out = append(out, p[0])
		out = binary.BigEndian.AppendUint32(out, uint32(size-1+prefixSize))
		out = append(out, p[headerLen:at]...)
		name := len(out)
		out = append(out, n.prefix[:]...)
		if p[0] == 'B' && size > maxCopied {
			return out, p[at:], closes
		}
		out = append(out, p[at:size]...)
		if p[0] == 'P' {
			n.prepared = string(out[name : name+bytes.IndexByte(out[name:], 0)])
		}
		p = p[size:]
	}
	return append(out, p...), nil, closes
}

// nameIn returns the position of a prepared statement's name in a message, or 0 if it
// has none.
func nameIn(message []byte) (at int) {
	switch message[0] {
	case 'P':
		at = headerLen
	case 'D', 'C':
		if len(message) > headerLen && message[headerLen] == 'S' {
			at = headerLen + 1
		}
	case 'B': // the portal's name comes first
		if portal := bytes.IndexByte(message[headerLen:], 0); portal >= 0 {
			at = headerLen + portal + 1
		}
	}
	if at >= len(message) || message[at] == 0 { // the unnamed statement
		return 0
	}
	return at
}

// closeForgotten appends a Close for each forgotten statement. Closing a statement that
// does not exist is not an error.
func (n *namer) closeForgotten(out []byte) ([]byte, int) {
	for _, name := range n.forgotten {
		out = append(out, 'C')
		out = binary.BigEndian.AppendUint32(out, uint32(4+1+len(name)+1))
		out = append(out, 'S')
		out = append(out, name...)
		out = append(out, 0)
	}
	closes := len(n.forgotten)
	n.forgotten = nil
	return out, closes
}

// scratch holds messages while they are rewritten and sent.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// writeNamed sends messages with a name to rewrite, or that follow such messages. It
// holds a Close without a Sync back until the Sync, which lib/pq writes next: the
// server is asked nothing before that, but a pooler may answer the Close at once. If flush
// is set, a Flush takes the place of the Sync at the end of p.
func (c *Conn) writeNamed(p []byte, flush bool) (int, error) {
	if c.names == nil {
		c.names = newNamer()
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	first := append((*buf)[:0], c.names.held...)
	c.names.held = nil
	first, left, closes := c.names.rewrite(first, p)
	if p[0] == 'C' && answers(p) == 0 {
		c.names.held = slices.Clone(first)
		return len(p), nil
	}
	if flush {
		copy(first[len(first)-len(flushMessage):], flushMessage)
	}
	if cap(first) <= 2*maxCopied {
		*buf = first
	}
	c.notes.closing.Add(int32(closes))
	n, err := c.write(first)
	if err == nil && len(left) > 0 {
		var more int
		more, err = c.write(left)
		n += more
	}
	c.sent.Add(int64(n))
	if err != nil {
		return min(n, len(p)), c.lastWords(err)
	}
	return len(p), nil
}

// Prepared returns the name by which the server knows the last statement that was
// parsed. It must not be called concurrently with Write.
func (c *Conn) Prepared() string {
	if c.names == nil {
		return ""
	}
	return c.names.prepared
}

// CloseLater schedules the closing of a prepared statement together with the next
// Parse, without a round trip of its own. It must not be called concurrently with
// Write, or before a statement was prepared.
func (c *Conn) CloseLater(name string) { c.names.forgotten = append(c.names.forgotten, name) }

// Bound reports whether the server found the prepared statement of the operation and
// accepted its arguments. If not, nothing was executed.
func (c *Conn) Bound() bool { return c.notes.bound.Load() }

// Outdated reports, once, whether DEALLOCATE or DISCARD was run, or a setting has changed
// that may affect how the server reads statements when they are prepared.
func (c *Conn) Outdated() bool {
	return c.notes.outdated.Load() && c.notes.outdated.Swap(false)
}
