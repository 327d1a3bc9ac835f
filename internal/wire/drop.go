package wire

// maxDropped is how much is dropped of an answer before the session is told that it is
// cheaper to cancel.
const maxDropped = 1 << 20

// A drop is the part of an answer that lib/pq does not get: the output of a COPY, or rows
// that nobody wants any more. lib/pq would read each of them like others, and what is
// between here and the server may be many megabytes.
type drop struct {
	under bool // the frame of which rest counts what is still to come is dropped
	bytes int  // of the answer under way, dropped so far, up to just above maxDropped
}

// add counts bytes, and reports whether with them there is much.
func (d *drop) add(n int) (much bool) {
	before := d.bytes
	d.bytes = min(before+n, maxDropped+1)
	return before <= maxDropped && d.bytes > maxDropped
}

// DropRows says that nobody wants the rows of the answer under way that have not come to
// lib/pq yet. Events.Excess is called when there are many. It must not be called
// concurrently with Read.
func (c *Conn) DropRows() { c.notes.unwanted.Store(true) }

// drops reports whether lib/pq gets nothing of a frame that would be forwarded.
func (s *scanner) drops(typ byte) bool {
	return s.refusing || typ == 'D' && s.notes.unwanted.Load()
}

// dropCleared takes what has just been cleared out of the stream, with the rest of its
// last frame. Nothing else may be cleared. It returns false when the scan must stop.
func (s *scanner) dropCleared() (again bool) {
	much := s.drop.add(s.c - s.r + s.rest)
	s.r = s.c
	s.drop.under = s.rest > 0
	if much {
		s.calls |= callExcess
	}
	return !much
}
