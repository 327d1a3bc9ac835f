package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"sync"
)

// lib/pq counts its prepared statements: "1", "2", and so on, in each session.
// Behind a pooler that shares the server's sessions, a Bind may come to one where
// another client's "1" stands, and would run that. So names are made unique on
// their way, by a prefix that no other session has: then the worst is an error.

// prefixSize is the length of a prefix. A name has at most 63 bytes.
const prefixSize = 18

// A namer makes the names of a session's prepared statements unique. It is used by
// one goroutine at a time.
type namer struct {
	prefix    [prefixSize]byte
	prepared  string   // the statement that was parsed last, as the server knows it
	forgotten []string // statements to be closed with the next one that is parsed
	held      []byte   // a Close that goes out with the Sync to come
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

// maxCopied is the size of a message whose arguments are copied to be sent in one
// piece with the name before them.
const maxCopied = 32 << 10

// mayName reports whether there may be a name to rewrite in p, messages of lib/pq,
// which writes whole ones: Parse or Close first, or a Bind and no other name.
func mayName(p []byte) bool {
	return len(p) > headerLen && (p[0] == 'P' || p[0] == 'B' || p[0] == 'C') && nameIn(p) > 0
}

// rewrite appends to out the messages in p under the names that the server knows,
// and in front of a Parse a Close for each forgotten statement, which it counts.
// What is left of p is to be sent as it is.
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

// nameIn returns where a message has the name of a prepared statement, 0 where it
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

// closeForgotten appends a Close for each statement to be closed. Closing one that is
// not there is no error.
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

// writeNamed sends messages that have a name to be rewritten, or that stand behind
// those. A Close without a Sync waits for that, which lib/pq writes next: nothing is
// asked before it, but a pooler may answer the Close at once.
func (c *Conn) writeNamed(p []byte) (int, error) {
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

// Prepared returns the name by which the server knows the statement that was parsed
// last. It must not be called besides Write.
func (c *Conn) Prepared() string {
	if c.names == nil {
		return ""
	}
	return c.names.prepared
}

// CloseLater has a prepared statement closed, without a round trip of its own: with
// the next one that is parsed. It must not be called besides Write, or before a
// statement was prepared.
func (c *Conn) CloseLater(name string) { c.names.forgotten = append(c.names.forgotten, name) }

// Bound reports whether the server found the prepared statement of the operation, and
// took its arguments. If not, nothing was executed.
func (c *Conn) Bound() bool { return c.notes.bound.Load() }

// Outdated reports, once, whether DEALLOCATE or DISCARD ALL was run, or a setting changed
// by which the server reads statements when they are prepared.
func (c *Conn) Outdated() bool {
	return c.notes.outdated.Load() && c.notes.outdated.Swap(false)
}
