package wire_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// BenchmarkNotifications scans notifications with payloads of 10 bytes.
func BenchmarkNotifications(b *testing.B) {
	const count = 1000
	var stream []byte
	for range count {
		stream = append(stream, note("channel", "0123456789")...)
	}
	s := wire.NewStream(nobody{}, true)
	b.SetBytes(int64(len(stream) / count))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%count == 0 {
			if err := s.Discard(stream); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRows scans rows of 100 bytes.
func BenchmarkRows(b *testing.B) {
	const count = 1000
	var stream []byte
	for range count {
		stream = append(stream, row(string(make([]byte, 89)))...)
	}
	s := wire.NewStream(nobody{}, true)
	if err := s.Discard(rowDesc); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(stream) / count))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%count == 0 {
			if err := s.Discard(stream); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// An echo is a connection in memory that gives the same answer to each Write.
type echo struct {
	net.Conn // nil
	answer   []byte
	waiting  chan []byte
	rest     []byte
}

func newEcho(first, answer []byte) *echo {
	e := &echo{answer: answer, waiting: make(chan []byte, 1)}
	e.waiting <- first
	return e
}

func (e *echo) Write(p []byte) (int, error) {
	e.waiting <- e.answer
	return len(p), nil
}

func (e *echo) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		var ok bool
		if e.rest, ok = <-e.waiting; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *echo) Close() error                     { close(e.waiting); return nil }
func (e *echo) SetReadDeadline(time.Time) error  { return nil }
func (e *echo) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkQuery is a query of one row through a Conn.
func BenchmarkQuery(b *testing.B) {
	for _, mode := range []string{"passive", "active"} {
		b.Run(mode, func(b *testing.B) {
			answer := join(rowDesc, row("1"), tag("SELECT 1"), idle)
			conn := wire.NewConn(newEcho(join(greeting()...), answer), nobody{})
			defer conn.Close()
			buf := make([]byte, 4096)
			for conn.Unread() {
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
			if mode == "active" {
				conn.Activate()
			}
			request := query("SELECT 1")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < len(answer); {
					n, err := conn.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
		})
	}
}
