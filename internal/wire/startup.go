package wire

import (
	"bytes"
	"encoding/binary"
)

// Bounds of messages during the start-up, in bytes, header included: several times what
// PostgreSQL sends, and what libpq takes.
const (
	maxAuthentication = 2000 + 1
	maxEarlyReport    = maxSmall // an error or a notice before the client is known
	maxEarlyNotices   = 100
)

// An early says which messages of the start-up have come.
type early struct {
	negotiated bool
	keyed      bool
	notices    uint8 // up to maxEarlyNotices
}

// place reports whether a message of the given type and size may come now. Until the
// client is authenticated, the server may send no more than is needed for that.
func (e *early) place(typ byte, size uint32, authenticated bool) bool {
	switch typ {
	case 'R':
		return !authenticated && size <= maxAuthentication
	case 'v':
		return !authenticated && !e.negotiated && size <= maxAuthentication
	case 'E':
		return authenticated || size <= maxEarlyReport
	case 'N':
		return authenticated || size <= maxEarlyReport && e.notices < maxEarlyNotices
	case 'K':
		return authenticated && !e.keyed
	case 'S', 'A', 'Z':
		return authenticated
	}
	return false
}

// came notes that a message has come.
func (e *early) came(typ byte) {
	switch typ {
	case 'v':
		e.negotiated = true
	case 'N':
		e.notices = min(e.notices+1, maxEarlyNotices)
	case 'K':
		e.keyed = true
	}
}

// checkNegotiation checks a NegotiateProtocolVersion: the newest minor version, and the
// names of options that the server does not know.
func checkNegotiation(body []byte) error {
	if len(body) >= 8 {
		version, names := binary.BigEndian.Uint32(body), body[8:]
		major, minor := version>>16, version&0xffff // servers send both, or the minor one only
		if (major == 0 || major == 3) && minor <= 9999 &&
			uint64(bytes.Count(names, []byte{0})) == uint64(binary.BigEndian.Uint32(body[4:])) &&
			(len(names) == 0 || names[len(names)-1] == 0) {
			return nil
		}
	}
	return &FrameError{Type: 'v', Reason: "not a version and the names of options"}
}
