package wire

import (
	"bytes"
	"unicode/utf8"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// A clipper shortens an ErrorResponse or a NoticeResponse of any length as it streams
// by, and escapes that of a stranger, in memory of the size of its budget. Every field keeps its beginning; the
// SQLSTATE, the severity and the short fields at the end stay whole. It is fed with
// write and read with body.
type clipper struct {
	typ      byte
	escape   bool
	left     int // bytes of the frame still to come
	budget   int // bytes that the shortened body may still take
	perField int // most bytes of one field

	out   []byte
	field byte // the field being read, 0 between fields
	start int  // where its value starts in out
	limit int  // how long its value may be
	cut   bool // some of it was dropped
	ended bool // the terminating zero byte was read
}

const (
	errorBudget = maxErrorBody - 1000 // what lib/pq reads, with room to spare
	errorField  = 16 << 10

	noticeBudget = 1 << 20
	noticeField  = 512 << 10

	strangerBudget = 16 << 10

	// clipReserve is kept for the fields after a long one, clipLeast given to
	// each of them.
	clipReserve = 2 << 10
	clipLeast   = 128

	ellipsis = "…"
)

func newClipper(typ byte, length int, stranger bool) *clipper {
	c := &clipper{typ: typ, escape: stranger, left: length, budget: noticeBudget, perField: noticeField}
	switch {
	case stranger:
		c.budget, c.perField = strangerBudget, strangerField*utf8.UTFMax
	case typ == 'E':
		c.budget, c.perField = errorBudget, errorField
	}
	return c
}

// write takes what it needs from b and returns how much that was; the body is
// complete when left is 0.
func (c *clipper) write(b []byte) int {
	b = b[:min(len(b), c.left)]
	c.left -= len(b)
	for rest := b; len(rest) > 0 && !c.ended; {
		switch {
		case c.field != 0:
			rest = c.value(rest)
			continue
		case rest[0] == 0:
			c.ended = true
		default:
			c.begin(rest[0])
		}
		rest = rest[1:]
	}
	return len(b)
}

// value adds what b has of the field's value and returns what comes after it.
func (c *clipper) value(b []byte) (rest []byte) {
	value, rest, whole := bytes.Cut(b, []byte{0})
	n := min(len(value), c.limit-(len(c.out)-c.start))
	c.out = append(c.out, value[:n]...)
	c.cut = c.cut || n < len(value)
	if whole {
		c.end()
	}
	return rest
}

func (c *clipper) begin(field byte) {
	c.field = field
	c.out = append(c.out, field)
	c.start, c.cut = len(c.out), false
	c.limit = max(clipLeast, min(c.perField, c.budget-clipReserve))
}

func (c *clipper) end() {
	switch {
	case c.escape:
		c.out = append(c.out[:c.start], transport.Printable(c.out[c.start:], strangerField)...)
	case c.cut:
		c.out = append(trimRune(c.out, c.start), ellipsis...)
	}
	c.out = append(c.out, 0)
	used := len(c.out) - c.start + 1
	if used > c.budget { // more fields than the protocol has
		c.out = c.out[:c.start-1]
		used = 0
	}
	c.budget -= used
	c.field = 0
}

// trimRune drops an incomplete UTF-8 sequence at the end of out[start:].
func trimRune(out []byte, start int) []byte {
	for i := len(out) - 1; i >= start && i > len(out)-utf8.UTFMax; i-- {
		if utf8.RuneStart(out[i]) {
			if !utf8.FullRune(out[i:]) {
				return out[:i]
			}
			break
		}
	}
	return out
}

// body returns the shortened body, or an error if the frame was not well formed.
func (c *clipper) body() ([]byte, error) {
	if !c.ended {
		return nil, &FrameError{Type: c.typ, Reason: "a field has no terminator"}
	}
	return append(c.out, 0), nil
}
