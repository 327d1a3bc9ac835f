package wire

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Notification is a NotificationResponse: what NOTIFY sent, and who sent it.
type Notification struct {
	Channel string
	Payload string
	PID     uint32
}

// cutNotification finds the parts of the body of a NotificationResponse: the
// sender's process id, then channel and payload, each with a terminator. The
// channel is shared by all notifications of that channel, the payload is a slice
// of body.
func cutNotification(body []byte, names *interner) (pid uint32, channel string, payload []byte, err error) {
	if len(body) < 4 {
		return 0, "", nil, &FrameError{Type: 'A', Reason: "no process id"}
	}
	text := body[4:]
	channel, ok := names.again(text)
	if !ok {
		i := bytes.IndexByte(text, 0)
		if i < 0 {
			return 0, "", nil, &FrameError{Type: 'A', Reason: "the channel has no terminator"}
		}
		channel = names.intern(text[:i])
	}
	payload = text[len(channel)+1:]
	end := bytes.IndexByte(payload, 0)
	if end < 0 || end != len(payload)-1 {
		return 0, "", nil, &FrameError{Type: 'A', Reason: "the payload has no terminator at its end"}
	}
	return binary.BigEndian.Uint32(body), channel, payload[:end], nil
}

// blockSize bounds how many bytes of short payloads share one allocation, and so how
// much memory one payload can hold on to.
const blockSize = 512

// A payloadCopier copies payloads: a long one into its own allocation, many short ones
// into a common one.
type payloadCopier struct {
	block strings.Builder // grown once, never beyond
	left  int             // room in block
}

// copy returns the payload of a notification of the given size as a string. It expects
// more of that size in the next rest bytes.
func (c *payloadCopier) copy(payload []byte, size, rest int) string {
	if len(payload) > blockSize/4 {
		return string(payload)
	}
	if len(payload) > c.left {
		c.left = min(blockSize, len(payload)*(rest/size+1))
		c.block = strings.Builder{}
		c.block.Grow(c.left)
	}
	c.block.Write(payload)
	c.left -= len(payload)
	block := c.block.String()
	return block[len(block)-len(payload):]
}

// Bounds of the channel names that a session remembers. A name of PostgreSQL has at most
// 63 bytes, unless the server was compiled with another limit.
const (
	maxInterned      = 1024
	maxInternedBytes = 128 << 10
)

// An interner gives equal names the same string, so that a name costs one
// allocation for a session and not one for a notification. The zero value is
// ready for use; it is not safe for concurrent use.
type interner struct {
	last  string // of the notification before
	names map[string]string
	bytes int // in names
}

// again returns the name of the previous notification if text begins with it and its
// terminator: the usual case, and the fastest.
func (in *interner) again(text []byte) (name string, ok bool) {
	n := len(in.last)
	if n >= len(text) || text[n] != 0 || string(text[:n]) != in.last {
		return "", false
	}
	return in.last, true
}

func (in *interner) intern(b []byte) string {
	name, ok := in.names[string(b)]
	if !ok {
		name = string(b)
		if in.bytes += len(name); in.names == nil || len(in.names) >= maxInterned || in.bytes > maxInternedBytes {
			in.names, in.bytes = make(map[string]string), len(name)
		}
		in.names[name] = name
	}
	in.last = name
	return name
}
