package wire_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A recorder is a script that keeps what was written.
type recorder struct {
	*script
	mu      sync.Mutex // guards written
	written []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.written = append(r.written, p...)
	r.mu.Unlock()
	return r.script.Write(p)
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.written
	r.written = nil
	return string(p)
}

// What lib/pq sends for a query with arguments, and its answers.
var (
	syncs     = newFrame('S')
	flushes   = newFrame('H')
	parse     = newFrame('P', "\x00SELECT $1\x00\x00\x00")
	describe  = newFrame('D', "S\x00")
	bind      = newFrame('B', "\x00\x00\x00\x00\x00\x00\x00\x00")
	execute   = newFrame('E', "\x00\x00\x00\x00\x00")
	arguments = newFrame('t', "\x00\x01", uint32s(25))
	selected  = []frame{rowDesc, row("1"), tag("SELECT 1"), idle}
)

// eachHalf runs a test on a session with a request to be one transaction, which the
// server answers in turn, cut at every place.
func eachHalf(t *testing.T, answers [][]byte, f func(t *testing.T, cl *client, server *recorder)) {
	t.Helper()
	modes(t, func(t *testing.T, active bool) {
		begin := len(join(greeting()...))
		all := len(bytes.Join(answers, nil))
		cuts := []func(int, int) int{whole, bytewise}
		for at := begin + 1; at < begin+all; at++ {
			cuts = append(cuts, cutAt(at))
		}
		for _, cut := range cuts {
			server := &recorder{script: newScript(cut, append([][]byte{join(greeting()...)}, answers...)...)}
			server.hold = true
			conn := wire.NewConn(server, newEvents())
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			mustAsk(t, cl, startupPacket, join(greeting()...))
			if active && !conn.Activate() {
				t.Fatal("not active")
			}
			server.take()
			conn.BeginOperation()
			conn.OneTransaction()
			f(t, cl, server)
			conn.Close()
		}
	})
}

// wantSent fails the test unless the frames are what the server got.
func wantSent(t *testing.T, server *recorder, frames ...frame) {
	t.Helper()
	if got, want := server.take(), string(join(frames...)); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// A statement and its execution are sent with one Sync, and lib/pq does not notice.
func TestFlushInPlaceOfSync(t *testing.T) {
	long := newFrame('P', "\x00", strings.Repeat("x", 50_000), "\x00\x00\x00")
	for _, c := range []struct {
		name        string
		parse       frame
		description frame
	}{{"rows", parse, rowDesc}, {"no rows", parse, noData}, {"long query", long, noData}} {
		t.Run(c.name, func(t *testing.T) {
			answers := [][]byte{join(notice("a"), parsed, arguments, notice("b"), c.description), join(bound, row("1"), tag("SELECT 1"), idle), join(tag("BEGIN"), inTx),
				join(parsed, arguments, c.description), join(bound, tag("SELECT 1"), inTx)}
			if len(c.parse) > 32<<10 { // which goes out in two pieces
				answers = append([][]byte{nil}, answers...)
				answers = append(answers[:4], append([][]byte{nil}, answers[4:]...)...)
			}
			eachHalf(t, answers, func(t *testing.T, cl *client, server *recorder) {
				conn := cl.conn
				mustAsk(t, cl, join(c.parse, describe, syncs), join(parsed, arguments, c.description, idle))
				wantSent(t, server, c.parse, describe, flushes)
				if !conn.Busy() || !conn.Halfway() || conn.Clean() || conn.Sent() != int64(len(c.parse)+len(describe)+len(flushes)) {
					t.Errorf("halfway: busy %v, halfway %v, clean %v, sent %d", conn.Busy(), conn.Halfway(), conn.Clean(), conn.Sent())
				}
				mustAsk(t, cl, join(bind, execute, syncs), join(bound, row("1"), tag("SELECT 1"), idle))
				wantSent(t, server, bind, execute, syncs)
				if conn.Halfway() || !conn.Clean() {
					t.Errorf("at the end: halfway %v, clean %v", conn.Halfway(), conn.Clean())
				}
				mustAsk(t, cl, query("BEGIN"), join(tag("BEGIN"), inTx))
				mustAsk(t, cl, join(c.parse, describe, syncs), join(parsed, arguments, c.description, inTx))
				mustAsk(t, cl, join(bind, execute, syncs), join(bound, tag("SELECT 1"), inTx))
			})
		})
	}
}

// After an error the server waits for a Sync, which lib/pq thinks is sent.
func TestSyncAfterAnError(t *testing.T) {
	for name, before := range map[string][]frame{"parse": nil, "describe": {parsed}} {
		t.Run(name, func(t *testing.T) {
			refusal := append(before, syntaxErr)
			eachHalf(t, [][]byte{join(refusal...), join(idle), join(selected...)}, func(t *testing.T, cl *client, server *recorder) {
				mustAsk(t, cl, join(parse, describe, syncs), join(append(refusal, idle)...))
				wantSent(t, server, parse, describe, flushes, syncs)
				if cl.conn.Halfway() || !cl.conn.Clean() {
					t.Errorf("halfway %v, clean %v", cl.conn.Halfway(), cl.conn.Clean())
				}
				mustAsk(t, cl, query("SELECT"), join(selected...))
			})
		})
	}
}

// A long error, which is shortened, is one too.
func TestSyncAfterALongError(t *testing.T) {
	long := longError(40_000)
	modes(t, func(t *testing.T, active bool) {
		server := &recorder{script: newScript(whole, join(greeting()...), join(long), join(idle))}
		conn := wire.NewConn(server, newEvents())
		defer conn.Close()
		cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
		mustAsk(t, cl, startupPacket, join(greeting()...))
		if active {
			conn.Activate()
		}
		conn.OneTransaction()
		mustAsk(t, cl, join(parse, describe, syncs), join(clipped(long, false), idle))
	})
}

// The last words of the session are not answered.
func TestNoSyncAfterFatal(t *testing.T) {
	eachHalf(t, [][]byte{join(parsed, killed)}, func(t *testing.T, cl *client, server *recorder) {
		mustAsk(t, cl, join(parse, describe, syncs), join(parsed, killed))
		done := read(cl.conn)
		cl.conn.CheckFatal()
		<-done
		wantSent(t, server, parse, describe, flushes)
	})
}

// A request that lib/pq leaves halfway is ended by Sync. lib/pq hears of a parameter that
// changed meanwhile with the next answer.
func TestSyncHalfway(t *testing.T) {
	changed := param("TimeZone", "Europe/Rome")
	eachHalf(t, [][]byte{join(parsed, arguments, rowDesc), join(changed, idle), join(selected...)}, func(t *testing.T, cl *client, server *recorder) {
		mustAsk(t, cl, join(parse, describe, syncs), join(parsed, arguments, rowDesc, idle))
		cl.conn.Sync()
		wantSent(t, server, parse, describe, flushes, syncs)
		if cl.conn.Halfway() || !cl.conn.Clean() {
			t.Errorf("halfway %v, clean %v", cl.conn.Halfway(), cl.conn.Clean())
		}
		mustAsk(t, cl, query("SELECT"), append(bytes.Clone(changed), join(selected...)...))
	})
}

// A session that is lost halfway does not hang.
func TestLostHalfway(t *testing.T) {
	eachHalf(t, [][]byte{join(parsed, arguments, rowDesc), join(killed)}, func(t *testing.T, cl *client, server *recorder) {
		mustAsk(t, cl, join(parse, describe, syncs), join(parsed, arguments, rowDesc, idle))
		server.mu.Lock()
		server.hold = false
		server.mu.Unlock()
		cl.conn.Sync()
		if loss := cl.conn.Loss(); loss == nil || loss.Err != io.EOF || loss.Fatal == nil {
			t.Errorf("%+v", loss)
		}
	})
}

// Nothing but the description answers a Flush, and nothing follows it.
func TestUnaskedHalfway(t *testing.T) {
	for name, answer := range map[string][]frame{
		"ready":                       {idle},
		"ready after Parse":           {parsed, idle},
		"ready after the description": {parsed, arguments, noData, idle},
		"row":                         {parsed, arguments, rowDesc, row("1")},
		"bound":                       {parsed, arguments, rowDesc, bound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newScript(whole, join(greeting()...), join(answer...), nil)
			conn := wire.NewConn(server, newEvents())
			defer conn.Close()
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			mustAsk(t, cl, startupPacket, join(greeting()...))
			conn.OneTransaction()
			if _, err := conn.Write(join(parse, describe, syncs)); err != nil {
				t.Fatal(err)
			}
			for err := error(nil); err == nil && !conn.Halfway(); {
				_, err = conn.Read(cl.buf)
			}
			var broken *wire.FrameError
			if loss := conn.Loss(); loss == nil || !errors.As(loss.Err, &broken) {
				t.Errorf("%+v", loss)
			}
		})
	}
}

// What is one transaction already, or was not asked to be, is sent as it is.
func TestNoFlush(t *testing.T) {
	for name, request := range map[string][]frame{
		"binary parameters": {parse, bind, newFrame('D', "P\x00"), execute, syncs},
		"portal":            {parse, newFrame('D', "P\x00"), syncs},
		"no Sync":           {parse, describe},
		"two Syncs":         {parse, describe, syncs, syncs},
		"close":             {newFrame('C', "S\x00"), syncs},
		"query":             {newFrame('Q', "SELECT 1\x00")},
		"bytes like a Sync": {parse, newFrame('D', "Sxx", string(syncs))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &recorder{script: newScript(whole, join(greeting()...))}
			server.hold = true
			conn := wire.NewConn(server, newEvents())
			defer conn.Close()
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			mustAsk(t, cl, startupPacket, join(greeting()...))
			server.take()
			conn.OneTransaction()
			if _, err := conn.Write(join(request...)); err != nil {
				t.Fatal(err)
			}
			wantSent(t, server, request...)
			conn.BeginOperation()
			if _, err := conn.Write(join(parse, describe, syncs)); err != nil {
				t.Fatal(err)
			}
			wantSent(t, server, parse, describe, syncs)
		})
	}
}
