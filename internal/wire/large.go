package wire

// maxAhead is the size of the largest frame that lib/pq is told of as soon as it begins.
// lib/pq makes room for a whole message when it has read its length. So the beginning of
// a larger one is held back until a quarter of it has come: memory grows with what has
// arrived, not with what was announced.
const maxAhead = 2 << 20

const aheadShare = 4

// A large is the beginning of a frame above maxAhead.
type large struct {
	head []byte
	need int // bytes of head, when it may be handed over
}

func (l *large) left() int { return l.need - len(l.head) }

// write adds b. The room doubles, so that no more than a few times what has come is ever
// allocated.
func (l *large) write(b []byte) {
	if len(l.head)+len(b) > cap(l.head) {
		room := max(2*cap(l.head), len(l.head)+len(b))
		l.head = append(make([]byte, 0, min(room, l.need)), l.head...)
	}
	l.head = append(l.head, b...)
}

// holdBack begins to collect the frame at c. Nothing may be cleared before it.
func (s *scanner) holdBack(b []byte, size int) {
	begin := s.enough(b[0], size)
	s.large = &large{need: size / aheadShare}
	s.large.write(b[:begin])
	s.remove(begin)
	s.rest = size - begin
	if s.isRow = b[0] == 'D'; s.isRow {
		s.row = rowCheck{columns: s.answer.columns}
	}
}
