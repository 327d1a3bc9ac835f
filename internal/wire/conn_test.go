package wire_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// wait fails the test if done is not closed in time.
func wait(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// pair returns both ends of a TCP connection; they are closed with the test,
// and nothing waits on them for long.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	_ = s.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// send is what the server says.
func send(t *testing.T, server net.Conn, frames ...frame) {
	t.Helper()
	if _, err := server.Write(join(frames...)); err != nil {
		t.Fatal(err)
	}
}

// started session over TCP, past its greeting.
func session(t *testing.T, active bool, heard wire.Events) (*client, *net.TCPConn) {
	t.Helper()
	near, server := pair(t)
	return sessionOver(t, near, server, active, heard), server
}

func sessionOver(t *testing.T, near, server net.Conn, active bool, heard wire.Events) *client {
	t.Helper()
	conn := wire.NewConn(near, heard)
	t.Cleanup(func() { conn.Close() })
	if _, err := server.Write(join(greeting()...)); err != nil {
		t.Fatal(err)
	}
	cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
	if _, err := cl.readAnswer(len(join(greeting()...))); err != nil {
		t.Fatal(err)
	}
	if active && !conn.Activate() {
		t.Fatal("not active")
	}
	return cl
}

// modes runs f as a subtest for a passive and for an active session.
func modes(t *testing.T, f func(t *testing.T, active bool)) {
	t.Parallel()
	t.Run("passive", func(t *testing.T) { t.Parallel(); f(t, false) })
	t.Run("active", func(t *testing.T) { t.Parallel(); f(t, true) })
}

// read starts a Read, as if there were an answer to come, and returns where its error
// comes.
func read(conn *wire.Conn) <-chan error {
	wire.Expect(conn)
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := conn.Read(make([]byte, 4096)); err != nil {
				failed <- err
				return
			}
		}
	}()
	return failed
}

func TestClose(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		cl, _ := session(t, active, nobody{})
		conn := cl.conn
		if _, err := conn.Write(query("SELECT")); err != nil {
			t.Fatal(err)
		}
		failed := read(conn)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		wait(t, "Lost", conn.Lost())
		loss := conn.Loss()
		if !errors.Is(loss.Err, net.ErrClosed) || !loss.Local || loss.Fatal != nil || loss.Time.IsZero() {
			t.Errorf("%+v", loss)
		}
		conn.Close()
		conn.Abort(io.EOF)
		if conn.Loss() != loss {
			t.Error("the loss changed")
		}
		if conn.Clean() || conn.Active() != active {
			t.Errorf("clean %v, active %v", conn.Clean(), conn.Active())
		}
	})
}

func TestAbort(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		cl, server := session(t, active, nobody{})
		failed := read(cl.conn)
		reason := errors.New("a reason")
		cl.conn.Abort(reason)
		if err := <-failed; err != reason {
			t.Errorf("Read: %v", err)
		}
		if loss := cl.conn.Loss(); loss.Err != reason || !loss.Local {
			t.Errorf("%+v", loss)
		}
		if n, err := cl.conn.Write(query("SELECT")); n != 0 || err != reason {
			t.Errorf("Write: %d, %v", n, err)
		}
		if rest, err := io.ReadAll(server); err != nil || len(rest) != 0 {
			t.Errorf("the server got %q, %v", rest, err)
		}
	})
}

// TestCloseWhileActivating lets Close and Activate meet: no goroutine of the
// session is left when both have returned.
func TestCloseWhileActivating(t *testing.T) {
	t.Parallel()
	for range 200 {
		near, server := net.Pipe()
		conn := wire.NewConn(near, nobody{})
		go func() { _, _ = server.Write(join(greeting()...)) }()
		for conn.Unread() {
			if _, err := conn.Read(make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { conn.Activate() })
		}
		all.Go(func() { conn.Close() })
		all.Wait()
		if conn.Active() {
			if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
		if running := wire.Reading(conn); running {
			t.Fatal("the reader outlives Close")
		}
		server.Close()
	}
}

func TestSentAndBusy(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		cl, server := session(t, active, nobody{})
		go func() { _, _ = io.Copy(io.Discard, server) }() // ends with the test's socket
		conn := cl.conn
		if conn.Busy() || !conn.Clean() || conn.Status() != 'I' {
			t.Errorf("idle: busy %v, clean %v, status %c", conn.Busy(), conn.Clean(), conn.Status())
		}
		for range 2 {
			conn.BeginOperation()
			if n := conn.Sent(); n != 0 {
				t.Errorf("%d sent", n)
			}
			parse, sync := newFrame('P', "\x00SELECT\x00\x00\x00"), newFrame('S')
			for _, f := range []frame{parse, sync} {
				if _, err := conn.Write(f); err != nil {
					t.Fatal(err)
				}
			}
			if n := conn.Sent(); n != int64(len(parse)+len(sync)) {
				t.Errorf("%d sent", n)
			}
			if !conn.Busy() || conn.Clean() {
				t.Errorf("asked: busy %v, clean %v", conn.Busy(), conn.Clean())
			}
			send(t, server, parsed, inTx)
			if _, err := cl.readAnswer(len(parsed) + len(inTx)); err != nil {
				t.Fatal(err)
			}
			if conn.Busy() || !conn.Clean() || conn.Status() != 'T' {
				t.Errorf("answered: busy %v, clean %v, status %c", conn.Busy(), conn.Clean(), conn.Status())
			}
		}
		if pid, secret := conn.Backend(); pid != 4711 || string(secret) != "1234" {
			t.Errorf("%d, %q", pid, secret)
		}
		if _, ok := conn.Parameter("none"); ok {
			t.Error("a parameter that was not sent")
		}
		if conn.LocalAddr() == nil || conn.RemoteAddr().String() != server.LocalAddr().String() {
			t.Error(conn.LocalAddr(), conn.RemoteAddr())
		}
	})
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	simple, sync := newFrame('Q', "SELECT 1\x00"), newFrame('S')
	for _, c := range []struct {
		name string
		data []byte
		want int32
	}{
		{"nothing", nil, 0},
		{"query", simple, 1},
		{"sync", sync, 1},
		{"function call", newFrame('F', "..."), 1},
		{"extended", join(newFrame('P', "x"), newFrame('B', "x"), newFrame('D', "S"), newFrame('E', "x"), sync), 1},
		{"two", join(simple, simple), 2},
		{"pipeline", join(newFrame('P', "x"), sync, newFrame('B', "QSF"), sync, simple), 3},
		{"bytes that look like requests", join(newFrame('d', string(join(sync, sync)))), 0},
		{"COPY", join(newFrame('d', "x"), newFrame('c'), newFrame('f', "S\x00")), 0},
		{"terminate", newFrame('X'), 0},
		{"password", newFrame('p', "secret\x00"), 0},
		{"cut", sync[:4], 0},
		{"body cut", simple[:6], 1},
		{"bad length", join(frame("S\x00\x00\x00\x03"), sync), 1},
		{"huge length", join(header('Q', 1<<32-1), sync), 1},
	} {
		if got := wire.Answers(c.data); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestBuffers: an idle session holds no buffer, an active one a small one.
func TestBuffers(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		synctest.Test(t, func(t *testing.T) {
			near, server := net.Pipe()
			defer server.Close()
			conn := wire.NewConn(near, nobody{})
			defer conn.Close()
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			say := func(frames ...frame) { go func() { _, _ = server.Write(join(frames...)) }() }
			say(greeting()...)
			if _, err := cl.readAnswer(len(join(greeting()...))); err != nil {
				t.Fatal(err)
			}
			if active {
				conn.Activate()
			}
			go func() { _, _ = io.Copy(io.Discard, server) }()
			limit := map[bool]int{false: 0, true: wire.SmallSize}[active]
			for i, answer := range [][]frame{
				{rowDesc, row("1"), tag("SELECT 1"), idle},
				{rowDesc, bigRow, tag("SELECT 1"), idle},
				{longNotice(50_000), rowDesc, tag("SELECT 0"), idle},
				{rowDesc, note("a", "1"), row("1"), tag("SELECT 1"), idle},
			} {
				if _, err := conn.Write(query("SELECT")); err != nil {
					t.Fatal(err)
				}
				say(answer...)
				if _, err := cl.readAnswer(len(step{server: answer}.forwarded())); err != nil {
					t.Fatal(err)
				}
				if active { // it lets go of a large buffer when it has heard little
					say(note("a", "1"))
				}
				synctest.Wait()
				if n := wire.Buffered(conn); n > limit {
					t.Errorf("answer %d: an idle session holds %d bytes", i, n)
				}
			}
		})
	})
}

// TestCopy writes rows on one goroutine while another reads, as lib/pq does;
// the server talks meanwhile.
func TestCopy(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		const rows = 300
		heard := newEvents()
		cl, server := session(t, active, heard)
		mustCopy(t, cl, server)
		served := make(chan error, 1)
		data := newFrame('d', strings.Repeat("x", 1000))
		go func() {
			buf := make([]byte, len(data))
			for range rows {
				if _, err := io.ReadFull(server, buf); err != nil {
					served <- err
					return
				}
				if _, err := server.Write(join(notice("row"), param("a", "b"), note("c", "d"))); err != nil {
					served <- err
					return
				}
			}
			_, err := server.Write(join(tag("COPY 300"), inTx))
			served <- err
		}()
		want := join(tag("COPY 300"), inTx)
		done := make(chan error, 1)
		go func() {
			got, err := cl.readAnswer(len(want))
			if err == nil && string(got) != string(want) {
				err = errors.New("got " + string(got))
			}
			done <- err
		}()
		for range rows {
			if _, err := cl.conn.Write(data); err != nil {
				t.Fatal(err)
			}
			cl.conn.Clean()
			cl.conn.Activate()
			cl.conn.Poll(context.Background())
		}
		if err := errors.Join(<-served, <-done); err != nil {
			t.Fatal(err)
		}
		if n := len(heard.snapshot()); n != 2*rows {
			t.Errorf("%d events", n)
		}
		if !cl.conn.Clean() {
			t.Error("not clean")
		}
	})
}

// mustCopy begins a COPY.
func mustCopy(t *testing.T, cl *client, server net.Conn) {
	t.Helper()
	request := query("COPY")
	cl.conn.WantCopy()
	if _, err := cl.conn.Write(request); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, len(request))); err != nil {
		t.Fatal(err)
	}
	send(t, server, copyIn)
	if _, err := cl.readAnswer(len(copyIn)); err != nil {
		t.Fatal(err)
	}
}

// TestCatchUp: what has arrived on an idle, passive session is taken in.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	heard := newEvents()
	cl, server := session(t, false, heard)
	cl.conn.CatchUp()
	send(t, server, notice("1"), param("TimeZone", "Europe/Rome"), note("a", "2"), notice("3")[:7])
	cl.conn.CatchUp()
	if got, want := heard.snapshot(), []string{"N 1", "A a 2"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	if zone, _ := cl.conn.Parameter("TimeZone"); zone != "Europe/Rome" {
		t.Error(zone)
	}
	if cl.conn.Clean() {
		t.Error("clean with a part of a frame unread")
	}
	send(t, server, notice("3")[7:])
	cl.conn.CatchUp()
	if !cl.conn.Clean() || wire.Buffered(cl.conn) != 0 {
		t.Errorf("clean %v, %d bytes buffered", cl.conn.Clean(), wire.Buffered(cl.conn))
	}
	answer := join(rowDesc, row("1"), tag("SELECT 1"), idle)
	go func() { // the deadline is gone: the answer may take its time
		_, _ = io.ReadFull(server, make([]byte, len(query("SELECT"))))
		_, _ = server.Write(answer)
	}()
	mustAsk(t, cl, query("SELECT"), append(slices.Clone(param("TimeZone", "Europe/Rome")), answer...))
	send(t, server, killed)
	server.Close()
	cl.conn.CatchUp()
	if loss := cl.conn.Loss(); loss == nil || loss.Fatal == nil {
		t.Errorf("%+v", loss)
	}
	cl.conn.CatchUp()
}

// A hookedConn calls a function when its read deadline is taken away.
type hookedConn struct {
	net.Conn
	hook func()
}

func (c *hookedConn) SetReadDeadline(t time.Time) error {
	err := c.Conn.SetReadDeadline(t)
	if f := c.hook; f != nil && t.IsZero() {
		c.hook = nil
		f()
	}
	return err
}

// TestCatchUpAgain: an end that comes when a CatchUp has looked already is found by the
// next one, although the first is still under way.
func TestCatchUpAgain(t *testing.T) {
	t.Parallel()
	near, server := pair(t)
	hooked := &hookedConn{Conn: near}
	cl := sessionOver(t, hooked, server, false, nobody{})
	again, started := make(chan struct{}), make(chan struct{})
	hooked.hook = func() {
		server.Close()
		go func() {
			close(started)
			cl.conn.CatchUp()
			close(again)
		}()
		<-started
		time.Sleep(50 * time.Millisecond) // for one that does not wait to come too early
	}
	cl.conn.CatchUp()
	<-again
	if cl.conn.Loss() == nil {
		t.Error("the end was not noticed")
	}
}

// TestCheckFatal: lib/pq reads no further than a FATAL message.
func TestCheckFatal(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		cl, server := session(t, active, nobody{})
		cl.conn.CheckFatal()
		if cl.conn.Loss() != nil {
			t.Fatal("lost")
		}
		if _, err := cl.conn.Write(query("SELECT")); err != nil {
			t.Fatal(err)
		}
		send(t, server, killed)
		if _, err := cl.readAnswer(len(killed)); err != nil {
			t.Fatal(err)
		}
		cl.conn.CheckFatal()
		if loss := cl.conn.Loss(); loss == nil || loss.Err != wire.ErrServerEnded || loss.Fatal == nil || loss.Local {
			t.Errorf("%+v", loss)
		}
	})
}
