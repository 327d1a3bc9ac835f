package wire

import (
	"encoding/binary"
	"fmt"
)

// headerLen is the size of a message's type byte and its length word. The
// length counts itself but not the type byte.
const headerLen = 5

// readySize is the size of a ReadyForQuery.
const readySize = headerLen + 1

// Bounds of whole frames, in bytes, header included. PostgreSQL allocates no
// message above 1 GiB; the other bounds are several times what a server with
// default compile-time limits can send.
const (
	maxBulk  = 1<<30 + headerLen // a row, COPY data, an error or a notice
	maxWide  = 4 << 20           // descriptions of up to 1664 columns or 65535 parameters
	maxSmall = 64 << 10          // everything else
)

// maxErrorBody and minErrorBody bound the body of an ErrorResponse that lib/pq v1.12.3
// reads as one. It takes any other for the plain text that a server sends when it
// cannot fork, and loses its place in the stream.
const (
	maxErrorBody = 30_000
	minErrorBody = 4
)

// minText is the smallest value of four printable characters when they are read as a
// length.
const minText = ' ' << 24

// A class says what the scanner does with a kind of message.
type class uint8

const (
	unknown class = iota // not a message of the protocol: the session is over
	bulk                 // forwarded unread, up to maxBulk
	wide                 // forwarded unread, up to maxWide
	small                // forwarded unread, up to maxSmall
	noted                // read whole, then forwarded; up to maxSmall
	taken                // read whole and kept from lib/pq; up to maxSmall
	report               // an ErrorResponse or a NoticeResponse
)

var classes = [256]class{
	'D': bulk,   // DataRow
	'd': bulk,   // CopyData
	'V': bulk,   // FunctionCallResponse
	'T': wide,   // RowDescription
	't': wide,   // ParameterDescription
	'1': small,  // ParseComplete
	'I': small,  // EmptyQueryResponse
	'c': small,  // CopyDone
	'n': small,  // NoData
	's': small,  // PortalSuspended
	'2': noted,  // BindComplete
	'3': noted,  // CloseComplete
	'C': noted,  // CommandComplete
	'G': noted,  // CopyInResponse
	'H': noted,  // CopyOutResponse
	'K': noted,  // BackendKeyData
	'R': noted,  // Authentication…
	'S': noted,  // ParameterStatus
	'W': noted,  // CopyBothResponse
	'v': noted,  // NegotiateProtocolVersion
	'Z': noted,  // ReadyForQuery
	'A': taken,  // NotificationResponse
	'E': report, // ErrorResponse
	'N': report, // NoticeResponse
}

var limits = [...]uint32{unknown: 0, bulk: maxBulk, wide: maxWide, small: maxSmall,
	noted: maxSmall, taken: maxSmall, report: maxBulk}

// frameSize returns the size of the frame that starts at b, header included;
// b holds at least its header. A length below 4 or close to 2^32 gives a size
// that no limit allows.
func frameSize(b []byte) uint32 {
	n := binary.BigEndian.Uint32(b[1:headerLen])
	if n < 4 || n > maxBulk {
		return maxBulk + 1
	}
	return n + 1
}

func lengthWord(b []byte) uint32 { return binary.BigEndian.Uint32(b[1:headerLen]) }

// A FrameError says that the server broke the protocol. Its session is over, because it
// is unknown where the next frame starts.
type FrameError struct {
	Type   byte   // the message's type; 0 if there is none
	Length uint32 // the value of its length word; 0 if that does not matter
	Reason string
}

func (e *FrameError) Error() string {
	switch {
	case e.Type == 0:
		return "protocol error: " + e.Reason
	case e.Length == 0:
		return fmt.Sprintf("protocol error: message %q: %s", e.Type, e.Reason)
	}
	return fmt.Sprintf("protocol error: message %q of length %d: %s", e.Type, e.Length, e.Reason)
}

func outOfPlace(typ byte) error {
	return &FrameError{Type: typ, Reason: "out of place, nothing was asked"}
}

func outOfTurn(typ byte) error {
	return &FrameError{Type: typ, Reason: "it has no place in the answer under way"}
}

// notPostgresError is the error for a peer whose first bytes are not PostgreSQL's.
type notPostgresError struct{ answer []byte }

func (e *notPostgresError) Error() string {
	return fmt.Sprintf("not a PostgreSQL server: it answered %q", e.answer)
}
