package states_test

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// An output is messages about to be sent, and how. A notice or a notification is
// only a type until it is sent, because it gets its number then.
type output struct {
	frames [][]byte
	odd    string // what is not as the protocol demands
	end    ending
	cut    int  // bytes that are not sent, if it ends
	hold   bool // it waits for a cancel request
}

// An ending says how the connection goes on.
type ending int

const (
	goesOn ending = iota
	closes
	resets
	fallsSilent
)

// note writes down what a program must make of the messages.
func (o *output) note(a *answer) {
	for _, f := range o.frames {
		if a.ended {
			return
		}
		switch f[0] {
		case 'D':
			a.rows = append(a.rows, label(f))
		case 'C':
			a.counts = append(a.counts, count(f))
		case 'E':
			a.failed = true
		case 'Z':
			a.ended = true
		}
	}
}

// refuses reports whether an error comes before the BindComplete.
func (o *output) refuses() bool {
	for _, f := range o.frames {
		if f[0] == '2' || f[0] == 'E' {
			return f[0] == 'E'
		}
	}
	return false
}

// shifts reports whether what comes behind the first ReadyForQuery is an answer of its
// own, and the first one is complete. If it comes late, nobody can tell that it is not
// the answer to the next statement.
func (o *output) shifts() bool {
	before, inside, ended := byte(0), false, false
	for _, f := range o.frames {
		switch f[0] {
		case 'A', 'N', 'S':
		case 'Z':
			if ended && inside {
				return true
			}
			if ended = ended || bytes.IndexByte([]byte("CIE"), before) >= 0; !ended {
				return false // which a program must notice
			}
		default:
			before, inside = f[0], ended
		}
	}
	return false
}

// readies returns how many ReadyForQuerys there are.
func (o *output) readies() (n int) {
	for _, f := range o.frames {
		if f[0] == 'Z' {
			n++
		}
	}
	return n
}

// label returns the first value of a DataRow; "" if it has none.
func label(row []byte) string {
	const header = 5 + 2
	if len(row) < header+4 {
		return ""
	}
	n := binary.BigEndian.Uint32(row[header:])
	return string(row[header+4:][:min(int(n), len(row)-header-4)])
}

// count returns the number at the end of a CommandComplete, as lib/pq takes it.
func count(complete []byte) int64 {
	tag := strings.TrimSuffix(string(complete[5:]), "\x00")
	n, _ := strconv.ParseInt(tag[strings.LastIndexByte(tag, ' ')+1:], 10, 64)
	return n
}

// rowFrames returns the description and the rows of a SELECT, without its end.
func rowFrames(k token, at, rows, size int) [][]byte {
	frames := [][]byte{pgfake.Columns("label", "filling")}
	filling := strings.Repeat("x", size)
	for i := range rows {
		frames = append(frames, pgfake.Row(k.String()+"/"+strconv.Itoa(at)+"."+strconv.Itoa(i), filling))
	}
	return frames
}
