package wire

import (
	"bytes"
	"slices"
)

// A scanner cuts the server's bytes into frames and decides about each. It knows no
// socket: bytes are put into room() and announced with filled; what lib/pq may see
// comes out of next and is released with take. It is used by one goroutine at a time.
//
// Its window on the stream:
//
//	buf  |  done  | cleared for lib/pq | not yet examined |  room  |
//	     0        r                    c                  w        cap
//
// A frame to be forwarded unread is cleared as far as it has arrived; rest counts what
// is still to come of it. Any other frame is examined when it is whole. A frame that is
// taken out or shortened is handled only once everything before it has been released,
// so order is kept.
type scanner struct {
	notes  *notes
	events Events

	buf     []byte
	r, c, w int
	rest    int      // bytes of the frame being forwarded that have not arrived
	want    int      // size of the incomplete frame at c, 0 if unknown
	clip    *clipper // the long report being shortened, or nil
	plain   bool     // plain text begins at c
	large   *large   // the beginning of a large frame that is held back, or nil
	inject  []byte   // frames of our own making, for lib/pq, before buf[r:]
	err     error    // the stream is broken at c

	ready       bool // the cleared bytes end with a ReadyForQuery
	description bool // what is being forwarded is the description of a statement; see describes
	burst       bool // the last read was too large for ear.small
	isRow       bool // rest is of a row
	phase       phase
	early       early
	answer      answer
	row         rowCheck
	refusing    bool // a COPY to the client: up to the ReadyForQuery, lib/pq gets nothing
	drop        drop
	calls       calls // to be made by the caller of Read
	listen      listenTracker
	ear         *ear // nil in a passive session that has heard nothing
}

// An ear is what a scanner needs to hear notifications.
type ear struct {
	small []byte // buffer of an active session between bursts; nil in a passive one
	names interner
	batch []Notification // taken out and not yet handed over
}

func (s *scanner) hear() *ear {
	if s.ear == nil {
		s.ear = new(ear)
	}
	return s.ear
}

// A phase says which frames are in their place.
type phase uint8

const (
	greeting phase = iota // nothing has come yet
	startup               // until the first ReadyForQuery
	running               // between and during requests
	copying               // from CopyInResponse to ReadyForQuery
)

// Events receives what the scanner takes out, in order, on the goroutine that reads.
// Its methods must not block for long.
type Events interface {
	// Notifications receives what one read brought, and owns the slice. It returns an
	// empty slice, or nil, for the next read.
	Notifications([]Notification) (spare []Notification)
	Notice(*Response)
	// Excess is called during a Read, on its goroutine: of the answer under way, much is
	// dropped, the output of a COPY or rows after DropRows.
	Excess()
	// Lost is called once, when the session has ended and Loss says how, before its
	// connection is closed. It must not block, nor call Close.
	Lost()
}

// next returns bytes for lib/pq; they stay valid until take. No bytes and no error mean
// that more input is needed.
func (s *scanner) next() ([]byte, error) {
	if s.c == s.r && len(s.inject) == 0 && s.err == nil {
		s.err = s.scan()
		s.flush()
	}
	switch {
	case s.c > s.r:
		return s.buf[s.r:s.c], nil
	case len(s.inject) > 0:
		return s.inject, nil
	}
	return nil, s.err
}

// take releases the first n bytes of what next returned and reports whether
// they were the last of a ReadyForQuery.
func (s *scanner) take(n int) (ready bool) {
	if s.c == s.r {
		s.inject = s.inject[n:]
	} else {
		s.r += n
	}
	ready = s.ready && s.r == s.c && len(s.inject) == 0
	if ready {
		s.ready = false
	}
	return ready
}

// beforeReady returns how many of the n bytes that next returned may go to lib/pq at
// once: a ReadyForQuery is handed over by itself.
func (s *scanner) beforeReady(n int) int {
	if s.ready && n > readySize {
		return n - readySize
	}
	return n
}

// flush hands over the notifications taken out so far.
func (s *scanner) flush() {
	if e := s.ear; e != nil && len(e.batch) > 0 {
		s.notes.listened.Store(true) // LISTEN may have run where no tag reports it, in a function
		e.batch = s.events.Notifications(e.batch)
	}
}

// scan examines frames until the input is used up, a ReadyForQuery is cleared, or a
// frame must wait until the cleared bytes are released.
func (s *scanner) scan() error {
	if s.description && s.rest == 0 {
		s.pretendReady()
		return nil
	}
	idle := s.idle()
	if !idle && s.phase == running {
		if s.inject = s.notes.takeStale(); s.inject != nil {
			return nil
		}
	}
	for s.c < s.w && (!s.description || s.rest > 0) {
		if s.plain {
			return s.plainText()
		}
		if s.rest > 0 {
			if again, err := s.goOn(); !again || err != nil {
				return err
			}
			continue
		}
		if s.clip != nil {
			if done, err := s.shorten(); done || err != nil {
				return err
			}
			continue
		}
		b := s.buf[s.c:s.w]
		if len(b) < headerLen {
			s.want = headerLen
			return nil
		}
		kind, size := classes[b[0]], frameSize(b)
		if size > limits[kind] || s.phase == greeting {
			if err := s.admit(b); err != nil {
				return err
			}
			continue
		}
		if s.phase == startup && !s.early.place(b[0], size, s.notes.authenticated.Load()) {
			return &FrameError{Type: b[0], Length: lengthWord(b), Reason: "out of place during the start-up, or too long for it"}
		}
		again, err := true, error(nil)
		if kind <= small {
			again, err = s.forward(b, int(size), idle)
		} else {
			again, err = s.examine(b, kind, int(size), idle)
		}
		if !again || err != nil {
			return err
		}
	}
	return nil
}

// forward clears the frame at c, or as much of it as there is, and the rows that follow a
// row. It returns false when the scan must stop.
func (s *scanner) forward(b []byte, size int, idle bool) (again bool, err error) {
	if enough := s.enough(b[0], size); len(b) < enough {
		s.want = enough
		return false, nil
	}
	drops := s.drops(b[0])
	if (size > maxAhead || drops) && s.c > s.r {
		return false, nil
	}
	if idle {
		return false, outOfPlace(b[0])
	}
	if !s.answer.place(b[0]) {
		return false, outOfTurn(b[0])
	}
	if s.refusing {
		s.isRow = false
		s.clear(size, len(b))
		return s.dropCleared(), nil
	}
	if err := s.countColumns(b, size); err != nil {
		return false, err
	}
	s.describes(b[0])
	if size > maxAhead && !drops {
		s.holdBack(b, size)
		return true, nil
	}
	if s.isRow = b[0] == 'D'; !s.isRow {
		s.clear(size, len(b))
		return true, nil
	}
	if size > len(b) {
		if err := s.row.begin(s.answer.columns, b[countLen:]); err != nil {
			return false, err
		}
	} else if !isRow(b[:size], s.answer.columns) {
		return false, errRow
	}
	s.clear(size, len(b))
	err = s.forwardRows()
	if drops {
		return s.dropCleared(), err
	}
	return true, err
}

// clear clears a frame of which so many bytes have come, or what there is of it.
func (s *scanner) clear(size, have int) {
	n := min(size, have)
	s.c += n
	s.rest = size - n
}

// enough returns how much of a frame must be there before it is forwarded.
func (s *scanner) enough(typ byte, size int) int {
	switch {
	case typ == 'T' && size <= maxSmall:
		return size
	case typ == 'D', typ == 'T', typ == 't':
		return min(countLen, size)
	}
	return headerLen
}

// forwardRows clears the run of whole rows at c, the bulk of a large answer: the fast
// path of the scanner.
func (s *scanner) forwardRows() error {
	b := s.buf[s.c:s.w]
	for len(b) >= headerLen && b[0] == 'D' {
		size := frameSize(b)
		if uint64(size) > uint64(len(b)) {
			break
		}
		if !isRow(b[:size], s.answer.columns) {
			return errRow
		}
		b = b[size:]
		s.c += int(size)
	}
	return nil
}

// countColumns checks and notes how many columns the rows have.
func (s *scanner) countColumns(b []byte, size int) error {
	switch b[0] {
	case 'T', 't':
		if err := checkDescription(b, size); err != nil {
			return err
		}
		if b[0] == 'T' {
			s.answer.columns = count(b)
		}
	case 'D':
		if len(b) < countLen {
			return errRow
		}
		if s.answer.columns == unknownColumns {
			s.answer.columns = count(b)
			s.notes.columns.Store(int32(count(b)) + 1)
		}
		if count(b) != s.answer.columns {
			return errRow
		}
	}
	return nil
}

// goOn clears what there is of the rest of the frame being forwarded. It returns false
// when the scan must stop.
func (s *scanner) goOn() (again bool, err error) {
	n := min(s.rest, s.w-s.c)
	if s.large != nil {
		n = min(n, s.large.left())
	}
	b := s.buf[s.c : s.c+n]
	if err := s.passed(b); err != nil {
		return false, err
	}
	switch {
	case s.drop.under:
		s.remove(n)
		s.drop.under = s.rest > 0
		return true, nil
	case s.large == nil:
		s.c += n
		return true, nil
	}
	s.large.write(b)
	s.remove(n)
	if s.large.left() > 0 {
		return true, nil
	}
	s.inject, s.large = s.large.head, nil
	return false, nil
}

// remove takes the frame at c out of the stream. Nothing may be cleared before it.
func (s *scanner) remove(size int) {
	s.c += size
	s.r = s.c
}

// admit handles the first frame of a session, and frames of impossible size. A first
// frame that PostgreSQL would not send means that the peer is not PostgreSQL. An
// ErrorResponse whose length is text is the plain text of a server that could not fork.
func (s *scanner) admit(b []byte) error {
	if s.phase == greeting {
		if b[0] == 'E' && lengthWord(b) >= minText {
			s.plain = true
			return nil
		}
		if bytes.IndexByte([]byte("RENv"), b[0]) < 0 {
			return &notPostgresError{answer: bytes.Clone(b[:min(len(b), 40)])}
		}
	}
	if frameSize(b) > limits[classes[b[0]]] {
		return &FrameError{Type: b[0], Length: lengthWord(b), Reason: "not a message of the protocol, or too long for one"}
	}
	s.phase = startup
	return nil
}

// examine handles a frame that must be read whole. It returns false when the scan must
// stop: for more input, or until the cleared bytes are released.
func (s *scanner) examine(b []byte, kind class, size int, idle bool) (again bool, err error) {
	held := b[0] == 'S' && (idle || s.phase == copying) || b[0] == '3' && s.notes.closing.Load() > 0 ||
		b[0] == 'H' || b[0] == 'G' && !s.notes.wantsCopy.Load()
	if (kind != noted || held || s.refusing) && s.c > s.r {
		return false, nil
	}
	stranger := s.phase == startup && !s.notes.authenticated.Load() && size > headerLen
	if kind == report && (stranger || size > maxSmall || b[0] == 'E' && size > maxErrorBody) {
		s.clip = newClipper(b[0], size-headerLen, stranger)
		s.remove(headerLen)
		return true, nil
	}
	if len(b) < size {
		s.want = size
		return false, nil
	}
	body := b[headerLen:size]
	switch b[0] {
	case 'A':
		return true, s.notifications()
	case 'N':
		return true, s.notice(body, size)
	case 'E':
		if err := s.failure(body, idle); err != nil {
			return false, err
		}
		if idle || s.refusing {
			s.remove(size)
		} else {
			s.c += size
		}
		return true, nil
	case 'S':
		return true, s.parameter(body, size, held)
	}
	if idle {
		return false, outOfPlace(b[0])
	}
	if held && b[0] == '3' { // the answer to one of our own Closes
		s.notes.closing.Add(-1)
		s.remove(size)
		return true, nil
	}
	step := s.answer.steps.first()
	if s.phase != startup && !s.answer.place(b[0]) {
		return false, outOfTurn(b[0])
	}
	if err := s.note(b[0], body); err != nil {
		return false, err
	}
	switch {
	case held: // a COPY
		s.remove(size)
		return s.refuseCopy(b[0], step), nil
	case s.refusing && !s.ready:
		s.remove(size)
	default:
		s.c += size
	}
	return !s.ready, nil
}

// notifications takes out the run of whole NotificationResponses at c. Nothing may be
// cleared before it.
func (s *scanner) notifications() error {
	e := s.hear()
	run, at, batch := s.buf[s.c:s.w], 0, e.batch
	if cap(batch) == 0 { // for as many of this size as there may be
		batch = make([]Notification, 0, len(run)/int(frameSize(run))+1)
	}
	var payloads payloadCopier
	for len(run)-at >= headerLen && run[at] == 'A' {
		size := frameSize(run[at:])
		if size > maxSmall || int(size) > len(run)-at {
			break
		}
		end := at + int(size)
		pid, channel, payload, err := cutNotification(run[at+headerLen:end], &e.names)
		if err != nil {
			e.batch = batch
			return err
		}
		if len(batch) == cap(batch) {
			batch = slices.Grow(batch, 1)
		}
		batch = batch[:len(batch)+1]
		n := &batch[len(batch)-1]
		n.Channel, n.PID = channel, pid
		n.Payload = payloads.copy(payload, int(size), len(run)-end)
		at = end
	}
	e.batch = batch
	s.remove(at)
	return nil
}

func (s *scanner) notice(body []byte, size int) error {
	r, err := ParseResponse('N', body)
	if err != nil {
		return err
	}
	s.early.came('N')
	if r.endsSession() && s.notes.fatal.Load() == nil {
		s.notes.warning.CompareAndSwap(nil, r)
	}
	s.flush() // events keep their order
	s.events.Notice(r)
	s.remove(size)
	return nil
}

// failure records an ErrorResponse, which is then forwarded to the request it answers.
// One that comes while nothing was asked is the server's last word; lib/pq has no use
// for it.
func (s *scanner) failure(body []byte, idle bool) error {
	fatal, err := checkError(body)
	if err != nil {
		return err
	}
	if len(body) < minErrorBody {
		return &FrameError{Type: 'E', Reason: "it has no fields"}
	}
	r, err := ParseResponse('E', body)
	if err != nil {
		return err
	}
	if fatal { // a pooler passes the server's on, and adds its own
		s.notes.fatal.CompareAndSwap(nil, r)
	}
	if !idle {
		s.notes.failure.Store(r)
		s.listen.failed = true
		s.answer.place('E')
		s.refuses(fatal)
	}
	return nil
}

// parameter records a ParameterStatus. If it is part of an answer, lib/pq gets it at
// once. Otherwise, and during COPY, when lib/pq would take it for an error, lib/pq gets
// it at the beginning of the next answer.
func (s *scanner) parameter(body []byte, size int, held bool) error {
	if err := s.notes.setParameter(body, held); err != nil {
		return err
	}
	if held {
		s.remove(size)
	} else {
		s.c += size
	}
	return nil
}

// note records the content of a frame that is forwarded.
func (s *scanner) note(typ byte, body []byte) error {
	switch typ {
	case 'C':
		return s.complete(body)
	case '2':
		s.notes.bound.Store(true)
		s.answer.columns = unknownColumns
	case 'Z':
		return s.readyForQuery(body)
	case 'K':
		s.early.came(typ)
		return s.notes.setKey(body)
	case 'R':
		return s.authentication(body)
	case 'v':
		s.early.came(typ)
		return checkNegotiation(body)
	case 'G':
		if s.notes.wantsCopy.Swap(false) {
			s.phase = copying
		}
		return checkCopy(body)
	}
	return nil
}

func (s *scanner) complete(tag []byte) error {
	if len(tag) < 1 || bytes.IndexByte(tag, 0) != len(tag)-1 {
		return &FrameError{Type: 'C', Reason: "the command tag has no terminator at its end"}
	}
	if s.phase == copying && !validCopyTag(tag) {
		return &FrameError{Type: 'C', Reason: "COPY ended with another command's tag"}
	}
	if s.listen.tag(tag) {
		s.notes.listened.Store(true)
	}
	if bytes.Equal(tag, tagListen) || bytes.Equal(tag, tagUnlisten) {
		s.flush() // what came before is handed over before the count tells of the command
		s.notes.listens.Add(1)
	}
	if tag[0] == 'D' && (bytes.HasPrefix(tag, tagDeallocate) || bytes.HasPrefix(tag, tagDiscard)) {
		s.notes.outdated.Store(true)
	}
	return nil
}

// validCopyTag reports whether lib/pq can read the tag. During COPY it panics on a
// goroutine of its own if it cannot.
func validCopyTag(tag []byte) bool {
	count, ok := bytes.CutPrefix(tag[:len(tag)-1], []byte("COPY "))
	if !ok {
		return false
	}
	for _, d := range count {
		if d < '0' || d > '9' {
			return false
		}
	}
	return len(count) > 0 && len(count) < 19
}

func (s *scanner) readyForQuery(body []byte) error {
	if len(body) != 1 || body[0] != 'I' && body[0] != 'T' && body[0] != 'E' {
		return &FrameError{Type: 'Z', Reason: "not a transaction status"}
	}
	s.refusing, s.drop = false, drop{}
	listens, undone := s.listen.ready(body[0])
	if listens {
		s.notes.listened.Store(true)
	}
	s.notes.undone.Store(undone)
	if s.notes.closing.Load() != 0 { // an error came before the Closes were answered
		s.notes.closing.Store(0)
	}
	if s.notes.failure.Load() != nil {
		s.notes.failure.Store(nil)
	}
	if s.notes.warning.Load() != nil {
		s.notes.warning.Store(nil)
	}
	s.notes.status.Store(uint32(body[0]))
	s.notes.awaited.Add(-1)
	if s.phase == startup {
		s.notes.settleParameters()
	}
	s.phase = running
	s.ready = true
	return nil
}

// shorten feeds the clipper and, once the report is complete, handles it.
func (s *scanner) shorten() (done bool, err error) {
	s.remove(s.clip.write(s.buf[s.c:s.w]))
	if s.clip.left > 0 {
		return false, nil
	}
	typ := s.clip.typ
	body, err := s.clip.body()
	s.clip = nil
	if err != nil {
		return true, err
	}
	if typ == 'N' {
		return false, s.notice(body, 0)
	}
	idle := s.idle()
	if err := s.failure(body, idle); err != nil {
		return true, err
	}
	if !idle && !s.refusing {
		s.inject = appendFrame(nil, 'E', body)
	}
	return true, nil
}
