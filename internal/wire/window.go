package wire

import "sync"

const (
	bufSize   = 64 << 10 // room for one read of the socket
	shortRest = 512      // a rest this short is moved to make room for a whole read
	smallSize = 1 << 10  // room for a read of an active session that receives little
)

var bufPool = sync.Pool{New: func() any { return new([bufSize]byte) }}

// room returns the space to read into. It is called when nothing is cleared, so the
// window holds at most the beginning of a frame. There is always some room: the longest
// frame that must be whole fits into a window of maxSmall.
func (s *scanner) room() []byte {
	dst := s.buf
	if dst == nil || s.burst && len(dst) < bufSize {
		dst = s.window()
	}
	size, left := max(s.want, headerLen), s.w-s.r
	if size > len(dst) {
		dst = make([]byte, max(size, bufSize))
	}
	grown := len(dst) != len(s.buf)
	if !grown && left > shortRest && s.r+size <= len(dst) && s.w < len(dst) {
		return dst[s.w:]
	}
	old := s.buf
	n := copy(dst, old[s.r:s.w])
	s.buf, s.r, s.c, s.w = dst, 0, 0, n
	if grown {
		s.recycle(old)
	}
	return s.buf[s.w:]
}

// window returns a buffer for an empty window: the small one of an active session that
// receives little, or one from the pool.
func (s *scanner) window() []byte {
	if s.ear != nil && s.ear.small != nil && !s.burst {
		return s.ear.small
	}
	return bufPool.Get().(*[bufSize]byte)[:]
}

func (s *scanner) recycle(buf []byte) {
	if len(buf) == bufSize {
		bufPool.Put((*[bufSize]byte)(buf))
	}
}

// filled says that n bytes were read into room.
func (s *scanner) filled(n int) {
	s.w += n
	s.burst = s.w == len(s.buf) || s.w > smallSize
	s.want = 0
}

// direct returns how many bytes of the frame being forwarded may be read
// straight into lib/pq's memory, because nothing is buffered before them.
func (s *scanner) direct() int {
	if s.r == s.w && len(s.inject) == 0 && s.large == nil && !s.drop.under {
		return s.rest
	}
	return 0
}

// passed says that b, of the frame being forwarded, has come. It reports an error if b has
// no place in a row.
func (s *scanner) passed(b []byte) error {
	s.rest -= len(b)
	if s.isRow && (!s.row.write(b) || s.rest == 0 && !s.row.whole()) {
		return errRow
	}
	return nil
}

// empty reports whether everything that was read has been released.
func (s *scanner) empty() bool {
	return s.r == s.w && len(s.inject) == 0 && s.rest == 0 && s.clip == nil
}

// release returns the buffer while there is nothing in it.
func (s *scanner) release() {
	s.recycle(s.buf)
	s.buf, s.r, s.c, s.w = nil, 0, 0, 0
}
