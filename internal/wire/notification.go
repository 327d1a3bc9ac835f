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

// parseNotification reads the body of a NotificationResponse: the sender's
// process id, then channel and payload, each with a terminator. The payload is
// a copy; the channel is shared by all notifications of that channel.
func parseNotification(body []byte, names *interner) (Notification, error) {
	if len(body) < 4 {
		return Notification{}, &FrameError{Type: 'A', Reason: "no process id"}
	}
	text := body[4:]
	i := bytes.IndexByte(text, 0)
	if i < 0 {
		return Notification{}, &FrameError{Type: 'A', Reason: "the channel has no terminator"}
	}
	payload := text[i+1:]
	if end := bytes.IndexByte(payload, 0); end < 0 || end != len(payload)-1 {
		return Notification{}, &FrameError{Type: 'A', Reason: "the payload has no terminator at its end"}
	}
	return Notification{
		Channel: names.intern(text[:i]),
		Payload: string(payload[:len(payload)-1]),
		PID:     binary.BigEndian.Uint32(body),
	}, nil
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
