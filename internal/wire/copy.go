package wire

import "encoding/binary"

// lib/pq copies only what a statement prepared in a transaction brings it. Any other COPY
// would leave it in the middle of an answer, or waiting for ever. The wire refuses a COPY
// from the client, and drops the output of a COPY to the client, so that lib/pq sees an
// error and the session goes on.

// calls are what the scanner has Read do, on the goroutine of the request.
type calls uint8

const (
	callCopyFail calls = 1 << iota
	callSync           // the server has ignored the one that came with Execute
	callExcess
)

var refusedOutput = appendFrame(nil, 'E', []byte("SERROR\x00VERROR\x00C0A000\x00"+
	"MCOPY TO STDOUT is not supported by lib/pq: its output was discarded\x00\x00"))

var copyFail = appendFrame(nil, 'f', []byte("COPY FROM STDIN is supported by lib/pq only as a statement prepared in a transaction\x00"))

var syncMessage = appendFrame(nil, 'S', nil)

// refuseCopy begins to refuse the COPY that a message of type typ, which was dropped, has
// begun in answer to a step. It returns false when the scan must stop.
func (s *scanner) refuseCopy(typ byte, step step) (again bool) {
	s.notes.refused.Store(true)
	if typ == 'G' {
		s.calls |= callCopyFail
		if step == stepExecute {
			s.calls |= callSync
		}
		return false
	}
	if s.refusing {
		return true
	}
	s.refusing = true
	s.inject = refusedOutput
	return false
}

// takeCalls returns what Read has to do.
func (s *scanner) takeCalls() calls {
	calls := s.calls
	s.calls = 0
	return calls
}

// call does what the scanner has asked for.
func (c *Conn) call(calls calls) error {
	var message []byte
	if calls&callCopyFail != 0 {
		message = append(message, copyFail...)
	}
	if calls&callSync != 0 {
		message = append(message, syncMessage...)
	}
	if len(message) > 0 {
		n, err := c.write(message)
		c.sent.Add(int64(n))
		if err != nil {
			return c.lose(err)
		}
	}
	if calls&callExcess != 0 {
		c.scan.events.Excess()
	}
	return nil
}

// checkCopy checks the body of a CopyInResponse: a format, and as many formats as there
// are columns, which are all text if the whole is.
func checkCopy(body []byte) error {
	if len(body) >= 3 && body[0] <= 1 && len(body) == 3+2*int(binary.BigEndian.Uint16(body[1:])) {
		for formats := body[3:]; ; formats = formats[2:] {
			if len(formats) == 0 {
				return nil
			}
			if formats[0] != 0 || formats[1] > body[0] {
				break
			}
		}
	}
	return &FrameError{Type: 'G', Reason: "its formats do not add up"}
}

// WantCopy says that lib/pq knows what to do with the next COPY FROM STDIN of the
// operation. It must not be called concurrently with Read or Write.
func (c *Conn) WantCopy() { c.notes.wantsCopy.Store(true) }

// Refused reports whether a COPY of the operation was refused. The error that lib/pq got
// says so.
func (c *Conn) Refused() bool { return c.notes.refused.Load() }
