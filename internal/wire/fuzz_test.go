package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A reading is what a scanner makes of a stream.
type reading struct {
	forwarded []byte
	stops     []int // where in forwarded a ReadyForQuery ended
	events    []string
	err       string
	notes     wire.Notes
	held      int // most bytes it kept at a time
}

// scan feeds data in pieces of the given sizes, one after the other and again.
// With asks, a request follows each ReadyForQuery; otherwise the session stays
// idle.
func scan(data, sizes []byte, started, asks bool) reading {
	var r reading
	heard := newEvents()
	s := wire.NewStream(heard, started)
	forward := func(b []byte, ready bool) {
		r.forwarded = append(r.forwarded, b...)
		if ready {
			r.stops = append(r.stops, len(r.forwarded))
			if asks {
				s.Ask()
			}
		}
	}
	var err error
	for i := 0; len(data) > 0 && err == nil; i++ {
		n := len(data)
		if len(sizes) > 0 {
			n = min(n, 1+int(sizes[i%len(sizes)]))
		}
		err = s.Feed(data[:n], forward)
		data = data[n:]
		r.held = max(r.held, s.Held())
	}
	if err != nil {
		if again := s.Feed(nil, forward); again != err {
			r.err = "not kept: "
		}
		r.err += fmt.Sprintf("%T", err)
	}
	r.events, r.notes = heard.list, s.Notes()
	return r
}

// FuzzScanner feeds arbitrary bytes in arbitrary pieces: no panic, the same as
// in one piece, and bounded memory.
func FuzzScanner(f *testing.F) {
	for _, c := range conversations() {
		var stream []byte
		for _, s := range c.steps {
			stream = append(stream, join(s.server...)...)
		}
		if len(stream) < 10_000 {
			f.Add(stream, []byte{0}, false, true)
			f.Add(stream, []byte{6, 2, 16}, false, false)
		}
	}
	for _, b := range broken {
		if len(b.data) > 10_000 {
			continue
		}
		f.Add(append(join(greeting()...), b.data...), []byte{3}, false, true)
		f.Add([]byte(b.data), []byte{200}, true, true)
	}
	f.Fuzz(func(t *testing.T, data, sizes []byte, started, asks bool) {
		one := scan(data, nil, started, asks)
		pieces := scan(data, sizes, started, asks)
		if limit := 4<<20 + 2*len(data); one.held > limit || pieces.held > limit {
			t.Errorf("%d and %d bytes are held", one.held, pieces.held)
		}
		one.held, pieces.held = 0, 0
		if one.err != "" && one.err == pieces.err { // of a broken row, more or less was forwarded before that was known
			one.forwarded, pieces.forwarded = wholeFrames(one.forwarded), wholeFrames(pieces.forwarded)
		}
		if !reflect.DeepEqual(one, pieces) {
			t.Errorf("in one piece %d bytes, %d events, %v, %s %+v,\nin pieces %d bytes, %d events, %v, %s %+v",
				len(one.forwarded), len(one.events), one.stops, one.err, one.notes,
				len(pieces.forwarded), len(pieces.events), pieces.stops, pieces.err, pieces.notes)
		}
		if strings.HasPrefix(one.err, "not kept") {
			t.Error(one.err)
		}
		checkForwarded(t, one)
	})
}

// wholeFrames returns the frames at the beginning of b that are complete.
func wholeFrames(b []byte) []byte {
	at := 0
	for len(b)-at >= 5 {
		size := int(binary.BigEndian.Uint32(b[at+1:])) + 1
		if size > len(b)-at {
			break
		}
		at += size
	}
	return b[:at]
}

// checkForwarded looks at the frames that lib/pq would get.
func checkForwarded(t *testing.T, r reading) {
	t.Helper()
	b, at := r.forwarded, 0
	for len(b)-at >= 5 {
		typ, size := b[at], int(binary.BigEndian.Uint32(b[at+1:]))+1
		if typ == 'A' || typ == 'N' {
			t.Fatalf("message %q is forwarded", typ)
		}
		if typ == 'E' && (size-5 > wire.MaxErrorBody || size-5 < 4) {
			t.Fatalf("an error with a body of %d bytes is forwarded", size-5)
		}
		if len(b)-at < size {
			return
		}
		at += size
		if (typ == 'Z') != slices.Contains(r.stops, at) {
			t.Fatalf("message %q ends at %d, stops are %d", typ, at, r.stops)
		}
	}
}

// FuzzNotification: what is read is what was written, or an error.
func FuzzNotification(f *testing.F) {
	f.Add([]byte(note("a", "payload")[5:]))
	f.Add([]byte(note("", "")[5:]))
	for _, b := range broken {
		if b.data[0] == 'A' {
			f.Add([]byte(b.data[5:]))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := wire.ParseNotification(body)
		well := len(body) >= 4 && bytes.Count(body[4:], []byte{0}) == 2 && body[len(body)-1] == 0
		if (err == nil) != well {
			t.Fatalf("%q: %v", body, err)
		}
		if err == nil {
			if again := newFrame('A', uint32s(n.PID), n.Channel, "\x00", n.Payload, "\x00")[5:]; !bytes.Equal(again, body) {
				t.Errorf("%q became %q", body, again)
			}
		}
	})
}

// FuzzNotice: ParseResponse and the check that errors get agree, and what was
// read can be written.
func FuzzNotice(f *testing.F) {
	f.Add([]byte(notice("text")[5:]))
	f.Add([]byte(killed[5:]))
	for _, b := range broken {
		if len(b.data) > 5 && (b.data[0] == 'E' || b.data[0] == 'N') {
			f.Add([]byte(b.data[5:]))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := wire.ParseResponse('E', body)
		fatal, err2 := wire.CheckError(body)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %v, but %v", body, err, err2)
		}
		if err != nil {
			return
		}
		if r.Fatal() != fatal && !emptySeverity(body) {
			t.Errorf("%q: fatal %v, but %v", body, r.Fatal(), fatal)
		}
		again, err := wire.ParseResponse('E', responseBody(r))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

// emptySeverity reports whether the server sent an empty V field.
func emptySeverity(body []byte) bool {
	return bytes.HasPrefix(body, []byte("V\x00")) || bytes.Contains(body, []byte("\x00V\x00"))
}

// FuzzClip: what is shortened can be read and is short enough; what is short
// stays as it is. Bytes from 0xf0 on stand for many, so that fields get long.
func FuzzClip(f *testing.F) {
	f.Add([]byte(syntaxErr[5:]), byte('E'), uint16(1))
	f.Add([]byte("SERROR\x00M\xf0\xf1\xf2\xff\xff\x00D\xff\xff\x00H\xff\x00\x00"), byte('E'), uint16(100))
	f.Add([]byte("SNOTICE\x00M\xff\xff\xff\xff\x00\x00"), byte('N'), uint16(1000))
	f.Add([]byte("\x00"), byte('E'), uint16(0))
	f.Fuzz(func(t *testing.T, short []byte, typ byte, piece uint16) {
		if typ != 'N' {
			typ = 'E'
		}
		var body []byte
		for _, b := range short {
			if b >= 0xf0 {
				body = append(body, strings.Repeat("é€", 1<<(b&7)<<4)...)
			} else {
				body = append(body, b)
			}
		}
		if len(body) > 1<<20 {
			return
		}
		out, err := wire.Clip(typ, body, 1+int(piece))
		end, well := wellFormed(body)
		if (err == nil) != well {
			t.Fatalf("%q: %v", shown(body), err)
		}
		if err != nil {
			return
		}
		if _, err := wire.ParseResponse(typ, out); err != nil {
			t.Fatalf("%q became %q: %v", shown(body), shown(out), err)
		}
		if typ == 'E' && len(out) > wire.MaxErrorBody || len(out) > 1<<20+1 {
			t.Errorf("%d bytes are left", len(out))
		}
		if end <= 16<<10 && !bytes.Equal(out, body[:end]) {
			t.Errorf("%q became %q", shown(body), shown(out))
		}
	})
}

// wellFormed is a simple reference: where the list of fields ends.
func wellFormed(body []byte) (end int, ok bool) {
	for end < len(body) {
		if body[end] == 0 {
			return end + 1, true
		}
		n := bytes.IndexByte(body[end+1:], 0)
		if n < 0 {
			return 0, false
		}
		end += n + 2
	}
	return 0, false
}

// FuzzAnswers compares with a simple reference.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(query("SELECT")))
	f.Add(join(newFrame('P', "x"), newFrame('S'), newFrame('F', "S")))
	f.Add([]byte("S\x00\x00\x00\x03S\x00\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var want int32
		for rest := p; len(rest) >= 5; {
			if strings.IndexByte("QSF", rest[0]) >= 0 {
				want++
			}
			size := 1 + int64(binary.BigEndian.Uint32(rest[1:]))
			if size < 5 || size > int64(len(rest)) {
				break
			}
			rest = rest[size:]
		}
		if got := wire.Answers(p); got != want {
			t.Errorf("%q: %d, want %d", p, got, want)
		}
	})
}
