package wire

import (
	"bytes"
	"encoding/binary"
)

// countLen is how much of a row or a description must be there to know how many columns
// it has.
const countLen = headerLen + 2

// minColumn is the size of a column without a name in a RowDescription.
const minColumn = 1 + 18

func count(frame []byte) int { return int(binary.BigEndian.Uint16(frame[headerLen:])) }

// isRow reports whether a whole DataRow has the given number of columns, and no more and
// no less than their values.
func isRow(frame []byte, columns int) bool {
	if len(frame) < countLen || count(frame) != columns {
		return false
	}
	values := frame[countLen:]
	for range columns {
		if len(values) < 4 {
			return false
		}
		n := int32(binary.BigEndian.Uint32(values))
		values = values[4:]
		switch {
		case n == -1: // NULL
		case n < 0 || int64(n) > int64(len(values)):
			return false
		default:
			values = values[n:]
		}
	}
	return len(values) == 0
}

// A rowCheck is isRow for the values of a row that arrives in pieces.
type rowCheck struct {
	columns int     // that have not begun
	value   int     // bytes of the value under way that have not come
	length  [4]byte // of the next value, as far as it has come
	have    int     // bytes of length
}

// begin starts with the beginning of the values.
func (r *rowCheck) begin(columns int, values []byte) error {
	*r = rowCheck{columns: columns}
	if !r.write(values) {
		return errRow
	}
	return nil
}

// write reports whether b may come next.
func (r *rowCheck) write(b []byte) bool {
	for len(b) > 0 {
		if n := min(r.value, len(b)); n > 0 {
			r.value -= n
			b = b[n:]
			continue
		}
		if r.columns == 0 {
			return false
		}
		n := copy(r.length[r.have:], b)
		b = b[n:]
		if r.have += n; r.have < len(r.length) {
			return true
		}
		r.have = 0
		r.columns--
		value := int32(binary.BigEndian.Uint32(r.length[:]))
		if value < -1 {
			return false
		}
		r.value = int(max(value, 0))
	}
	return true
}

// whole reports whether the row is complete.
func (r *rowCheck) whole() bool { return r.columns == 0 && r.value == 0 && r.have == 0 }

// checkDescription checks a RowDescription or a ParameterDescription of the given size, of
// which at least the count is there: lib/pq makes room for as many columns or parameters
// as are announced.
func checkDescription(frame []byte, size int) error {
	if size < countLen || !addsUp(frame, size) {
		return &FrameError{Type: frame[0], Length: lengthWord(frame), Reason: "it does not add up"}
	}
	return nil
}

// addsUp is checkDescription for a frame that has a count.
func addsUp(frame []byte, size int) bool {
	n, left := count(frame), size-countLen
	if frame[0] == 't' {
		return left == 4*n
	}
	return n*minColumn <= left && (len(frame) < size || areColumns(frame[countLen:size], n))
}

// areColumns reports whether b describes n columns: a name, 16 bytes, and a format.
func areColumns(b []byte, n int) bool {
	for range n {
		end := bytes.IndexByte(b, 0)
		if end < 0 || len(b) < end+minColumn || b[end+minColumn-2] != 0 || b[end+minColumn-1] > 1 {
			return false
		}
		b = b[end+minColumn:]
	}
	return len(b) == 0
}

var errRow = &FrameError{Type: 'D', Reason: "a row does not add up"}
