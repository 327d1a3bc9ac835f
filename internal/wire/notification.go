package wire

import (
	"bytes"
	"encoding/binary"
)

// Notification is a NotificationResponse: what NOTIFY sent, and from where.
type Notification struct {
	Channel string
	Payload string
	PID     uint32
}

// cutNotification finds the parts of the body of a NotificationResponse: the
// sender's process id, then channel and payload, each with a terminator. They
// are slices of body.
func cutNotification(body []byte) (pid uint32, channel, payload []byte, err error) {
	if len(body) < 4 {
		return 0, nil, nil, &FrameError{Type: 'A', Reason: "no process id"}
	}
	text := body[4:]
	i := bytes.IndexByte(text, 0)
	if i < 0 {
		return 0, nil, nil, &FrameError{Type: 'A', Reason: "the channel has no terminator"}
	}
	payload = text[i+1:]
	end := bytes.IndexByte(payload, 0)
	if end < 0 || end != len(payload)-1 {
		return 0, nil, nil, &FrameError{Type: 'A', Reason: "the payload has no terminator at its end"}
	}
	return binary.BigEndian.Uint32(body), text[:i], payload[:end], nil
}

// blockSize bounds how many bytes of the stream short payloads share as one
// allocation, and so what one that is kept can keep in memory.
const blockSize = 512

// A blockCopier copies payloads out of a run of frames: a long one alone, short
// ones many at a time.
type blockCopier struct {
	block string // copy of the run from start on
	start int
}

// copy returns run[from:to] as a string.
func (c *blockCopier) copy(run []byte, from, to int) string {
	if to-from > blockSize/4 {
		return string(run[from:to])
	}
	if from < c.start || to > c.start+len(c.block) {
		c.block, c.start = string(run[from:min(from+blockSize, len(run))]), from
	}
	return c.block[from-c.start : to-c.start]
}

// maxInterned bounds how many channel names a session remembers.
const maxInterned = 1024

// An interner gives equal names the same string, so that a name costs one
// allocation for a session and not one for a notification. The zero value is
// ready for use; it is not safe for concurrent use.
type interner struct {
	last  string // most notifications are of the channel of the one before
	names map[string]string
}

func (in *interner) intern(b []byte) string {
	if string(b) == in.last {
		return in.last
	}
	name, ok := in.names[string(b)]
	if !ok {
		name = string(b)
		if in.names == nil || len(in.names) >= maxInterned {
			in.names = make(map[string]string)
		}
		in.names[name] = name
	}
	in.last = name
	return name
}
