package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// bareReaderName is a loop that reads a session's socket, finds where channels and
// payloads are, and makes nothing of them: the floor for all who hear.
const bareReaderName = "bare reader"

// A bareReader reads notifications from a session that has nothing else to say.
type bareReader struct {
	net.Conn
	buf  []byte
	r, w int // what is left of the buffer
}

// bareReadSize is how much is read at once: as much as pgnotify does.
const bareReadSize = 64 << 10

// openBareReader returns a session that listens; pgx has set it up.
func openBareReader(ctx context.Context, dsn string, channels []string) (*bareReader, error) {
	c, err := openPgx(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	h, err := c.PgConn().Hijack()
	if err != nil {
		return nil, joinClose(err, func() error { return closePgx(c) })
	}
	return newBareReader(h), nil
}

func newBareReader(h *pgconn.HijackedConn) *bareReader {
	return &bareReader{Conn: h.Conn, buf: make([]byte, bareReadSize)}
}

// next returns the channel and the payload of the next notification, which are valid
// until it is called again.
func (b *bareReader) next() (channel, payload []byte, err error) {
	const head = 1 + 4 // type and length
	for {
		if left := b.buf[b.r:b.w]; len(left) >= head {
			size := 1 + int(binary.BigEndian.Uint32(left[1:]))
			if size > len(b.buf) {
				return nil, nil, fmt.Errorf("a message of %d bytes", size)
			}
			if size <= len(left) {
				b.r += size
				if left[0] != 'A' { // notices, parameters
					continue
				}
				text := left[head+4 : size] // behind the process id
				end := bytes.IndexByte(text, 0)
				return text[:end], text[end+1 : len(text)-1], nil
			}
		}
		if err := b.fill(); err != nil {
			return nil, nil, err
		}
	}
}

func (b *bareReader) fill() error {
	b.w = copy(b.buf, b.buf[b.r:b.w])
	b.r = 0
	n, err := b.Read(b.buf[b.w:])
	b.w += n
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// hearBareReader is the bare reader. It reads under a context that can be cancelled:
// its end ends a read.
func hearBareReader(ctx context.Context, dsn string, channels []string, _ int) (hearer, error) {
	b, err := openBareReader(ctx, dsn, channels)
	if err != nil {
		return hearer{}, err
	}
	return hearer{func(ctx context.Context, count, size int) (taken, _ int, _ error) {
		defer context.AfterFunc(ctx, func() { _ = b.SetReadDeadline(time.Unix(1, 0)) })()
		for ; taken < count; taken++ {
			_, payload, err := b.next()
			if err != nil {
				return taken, 0, err
			}
			if len(payload) != size {
				return taken, 0, errSize(string(payload), size)
			}
		}
		return taken, 0, nil
	}, b.Close}, nil
}

// bareEar is the bare reader, on a goroutine that calls hear itself.
func bareEar(ctx context.Context, dsn string, channels []string, hear func(string, string), fail func(error)) (func() error, error) {
	b, err := openBareReader(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	return whileOpen(ctx, func(context.Context) {
		for {
			channel, payload, err := b.next()
			if err != nil {
				fail(err)
				return
			}
			hear(string(channel), string(payload))
		}
	}, b.Close), nil
}
