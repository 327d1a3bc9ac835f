package wire

import "bytes"

// What the tests see of the package's inside.
const (
	MaxErrorBody = maxErrorBody
	MaxSmall     = maxSmall
	MaxBulk      = maxBulk
	BufSize      = bufSize
	SmallSize    = smallSize
	InboxSize    = inboxSize
)

var (
	RefusedOutput = refusedOutput
	CopyFail      = copyFail

	Answers    = answers
	CheckError = checkError
)

// IsNotPostgres reports whether err is about a peer that is no PostgreSQL.
func IsNotPostgres(err error) bool {
	_, ok := err.(*notPostgresError)
	return ok
}

// ParseNotification reads the body of a NotificationResponse.
func ParseNotification(body []byte) (Notification, error) {
	pid, channel, payload, err := cutNotification(body, new(interner))
	return Notification{Channel: channel, Payload: string(payload), PID: pid}, err
}

// Clip shortens the body of a message of the given type, fed in pieces of the
// given size.
func Clip(typ byte, body []byte, piece int) ([]byte, error) {
	return clip(newClipper(typ, len(body), false), body, piece)
}

// ClipStranger is Clip for a server that has not said AuthenticationOk.
func ClipStranger(typ byte, body []byte, piece int) ([]byte, error) {
	return clip(newClipper(typ, len(body), true), body, piece)
}

func clip(c *clipper, body []byte, piece int) ([]byte, error) {
	for len(body) > 0 {
		body = body[c.write(body[:min(piece, len(body))]):]
	}
	return c.body()
}

// Buffered returns the size of the buffer that c holds to read into. The
// goroutine that reads must be known to wait.
func Buffered(c *Conn) int { return len(c.scan.buf) }

// A Stream is a scanner without a socket.
type Stream struct {
	notes notes
	scan  scanner
}

// NewStream returns the scanner of a session that has just sent its start-up
// packet, or of one that has just sent a simple query.
func NewStream(events Events, started bool) *Stream {
	s := new(Stream)
	s.notes.awaited.Store(1)
	s.scan = scanner{notes: &s.notes, events: events, answer: answer{steps: &s.notes.steps}}
	if started {
		s.notes.steps.add(uint64(stepQuery))
		s.scan.phase = running
	}
	return s
}

// Ask says that a simple query was sent.
func (s *Stream) Ask() {
	s.notes.steps.add(uint64(stepQuery))
	s.notes.awaited.Add(1)
}

// Feed gives the scanner all of p, as much at a time as there is room, and
// calls forward with what lib/pq would get and whether a ReadyForQuery ends
// there.
func (s *Stream) Feed(p []byte, forward func(b []byte, ready bool)) error {
	return s.feed(p, func(b []byte) { forward(bytes.Clone(b), s.scan.take(len(b))) })
}

// Discard is Feed for benchmarks: it looks at nothing and keeps nothing.
func (s *Stream) Discard(p []byte) error {
	return s.feed(p, func(b []byte) { s.scan.take(len(b)) })
}

// feed calls take with each span, which takes all of it.
func (s *Stream) feed(p []byte, take func(span []byte)) error {
	for {
		span, err := s.scan.next()
		calls := s.scan.takeCalls()
		switch {
		case calls != 0:
		case len(span) > 0:
			take(span)
		case err != nil:
			return err
		case len(p) == 0:
			return nil
		default:
			n := copy(s.scan.room(), p)
			s.scan.filled(n)
			p = p[n:]
		}
	}
}

// Held returns how many bytes the scanner keeps.
func (s *Stream) Held() int {
	n := cap(s.scan.buf) + cap(s.scan.inject)
	if s.scan.large != nil {
		n += cap(s.scan.large.head)
	}
	if s.scan.clip != nil {
		n += cap(s.scan.clip.out)
	}
	return n
}

// Notes returns what was written down, to be compared.
func (s *Stream) Notes() Notes {
	n := Notes{
		Status:   byte(s.notes.status.Load()),
		Listened: s.notes.listened.Load(),
		Fatal:    s.notes.fatal.Load() != nil,
	}
	n.PID, _ = s.notes.backend()
	n.Params = s.notes.paramsLocked()
	return n
}

// Notes is what a scanner wrote down.
type Notes struct {
	Status   byte
	Listened bool
	Fatal    bool
	PID      uint32
	Params   string
}

// Expect has Read wait although nothing was asked.
func Expect(c *Conn) { c.unread.Add(1) }

// Reading reports whether the goroutine of an active session still runs.
func Reading(c *Conn) bool {
	r := c.active.Load()
	if r == nil {
		return false
	}
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// InboxMemory returns how many bytes wait for lib/pq, or have room to.
func InboxMemory(c *Conn) int {
	in := c.active.Load().inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	return cap(in.buf)
}

// Polls returns how many calls of Poll wait to be looked at.
func Polls(c *Conn) int {
	r := c.active.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.polls)
}
