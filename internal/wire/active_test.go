package wire_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// TestActivateBetween activates a session whose passive reads left something
// behind, cut at every place.
func TestActivateBetween(t *testing.T) {
	t.Parallel()
	first := join(append(greeting(), note("a", "1"), param("b", "c"), notice("2"), note("a", "3"))...)
	begin := len(join(greeting()...))
	for at := begin; at <= len(first); at++ {
		heard := newEvents()
		s := newScript(cutAt(at), first, join(rowDesc, note("a", "4"), tag("SELECT 0"), idle))
		conn := wire.NewConn(s, heard)
		cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
		mustAsk(t, cl, startupPacket, join(greeting()...))
		for range 2 { // again does nothing
			if !conn.Activate() || !conn.Active() {
				t.Fatal("not active")
			}
		}
		mustAsk(t, cl, query("SELECT"), join(param("b", "c"), rowDesc, tag("SELECT 0"), idle))
		if got, want := heard.snapshot(), []string{"A a 1", "N 2", "A a 3", "A a 4"}; !slices.Equal(got, want) {
			t.Errorf("cut at %d: heard %q, want %q", at, got, want)
		}
		conn.Close()
	}
}

func TestActivateRefused(t *testing.T) {
	t.Parallel()
	cl, _ := session(t, false, nobody{})
	if _, err := cl.conn.Write(query("SELECT")); err != nil {
		t.Fatal(err)
	}
	if cl.conn.Activate() || cl.conn.Active() {
		t.Error("active while busy")
	}
	cl, _ = session(t, false, nobody{})
	cl.conn.Close()
	if cl.conn.Activate() || cl.conn.Active() {
		t.Error("active after Close")
	}
}

// TestHearsWhileIdle: an active session hears at once, with no request.
func TestHearsWhileIdle(t *testing.T) {
	t.Parallel()
	heard := newEvents()
	cl, server := session(t, true, heard)
	for i := range 3 {
		send(t, server, note("a", fmt.Sprint(i)))
		wait(t, "notification", closed(heard.some))
	}
	send(t, server, killed)
	server.Close()
	wait(t, "Lost", cl.conn.Lost())
	if got := heard.snapshot(); !slices.Equal(got, []string{"A a 0", "A a 1", "A a 2"}) {
		t.Errorf("heard %q", got)
	}
	if loss := cl.conn.Loss(); loss.Fatal == nil || loss.Err != io.EOF {
		t.Errorf("%+v", loss)
	}
}

// closed returns a channel that is closed when c has something.
func closed(c <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() { // ends with c's next token, which every caller waits for
		<-c
		close(done)
	}()
	return done
}

// TestPoll: what the server had sent before the call is handed over when Poll
// returns, however many poll at a time.
func TestPoll(t *testing.T) {
	t.Parallel()
	var heard countingEvents
	cl, server := session(t, true, &heard)
	_ = server.SetDeadline(time.Now().Add(time.Minute)) // each Poll waits for timers, which are late on a busy machine
	var (
		mu   sync.Mutex
		sent int
		all  sync.WaitGroup
	)
	for range 8 {
		all.Go(func() {
			for range 50 {
				mu.Lock()
				sent++
				n := sent
				_, err := server.Write(note("a", "x"))
				mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				cl.conn.Poll(context.Background())
				if got := int(heard.n.Load()); got < n {
					t.Errorf("Poll returned after %d of %d notifications", got, n)
					return
				}
			}
		})
	}
	all.Wait()
	// the deadline of the last look must not end the session
	send(t, server, note("a", "x"))
	cl.conn.Poll(context.Background())
	if loss := cl.conn.Loss(); loss != nil {
		t.Errorf("%+v", loss)
	}
}

type countingEvents struct{ n atomic.Int64 }

func (e *countingEvents) Notifications(batch []wire.Notification) []wire.Notification {
	e.n.Add(int64(len(batch)))
	return batch[:0]
}
func (e *countingEvents) Notice(*wire.Response) {}
func (e *countingEvents) Excess()               {}
func (e *countingEvents) Lost()                 {}

// A hooked conn calls hook after a read deadline was set.
type hooked struct {
	net.Conn
	hook func(at time.Time)
}

func (h *hooked) SetReadDeadline(at time.Time) error {
	err := h.Conn.SetReadDeadline(at)
	h.hook(at)
	return err
}

// TestPollBesidePoll: a Poll that begins while the reader looks for another
// does not keep it from looking.
func TestPollBesidePoll(t *testing.T) {
	t.Parallel()
	near, server := pair(t)
	h := &hooked{Conn: near}
	heard := newEvents()
	cl := sessionOver(t, h, server, true, heard)
	var sent, looks sync.Once
	second := make(chan struct{})
	h.hook = func(at time.Time) {
		if at.Before(time.Now()) { // the first Poll wakes the reader
			sent.Do(func() { send(t, server, note("a", "1")) })
			return
		}
		looks.Do(func() { // the reader is about to look
			go func() { cl.conn.Poll(context.Background()); close(second) }()
			for wire.Polls(cl.conn) == 0 {
				runtime.Gosched()
			}
		})
	}
	cl.conn.Poll(context.Background())
	if got := heard.snapshot(); len(got) != 1 {
		t.Errorf("Poll returned after %d notifications", len(got))
	}
	wait(t, "the second Poll", second)
}

// TestPollInFrame: a frame that has arrived in part is read in part, and goes on.
func TestPollInFrame(t *testing.T) {
	t.Parallel()
	heard := newEvents()
	cl, server := session(t, true, heard)
	long := longNotice(60_000)
	f := join(note("a", "1"), long, note("a", "2"))
	for at := 0; at < len(f); at += 5000 {
		send(t, server, f[at:min(at+5000, len(f))])
		cl.conn.Poll(context.Background())
	}
	if got := heard.snapshot(); len(got) != 3 || got[2] != "A a 2" {
		t.Errorf("%d events", len(got))
	}
}

func TestPollReturns(t *testing.T) {
	t.Parallel()
	poll := func(t *testing.T, ctx context.Context, conn *wire.Conn) {
		t.Helper()
		done := make(chan struct{})
		go func() { conn.Poll(ctx); close(done) }()
		wait(t, "Poll", done)
	}
	t.Run("passive", func(t *testing.T) {
		t.Parallel()
		cl, _ := session(t, false, nobody{})
		poll(t, context.Background(), cl.conn)
	})
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		cl, _ := session(t, true, nobody{})
		if _, err := cl.conn.Write(query("SELECT")); err != nil {
			t.Fatal(err)
		}
		poll(t, context.Background(), cl.conn)
	})
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		cl, server := session(t, true, nobody{})
		server.Close()
		poll(t, context.Background(), cl.conn)
		wait(t, "Lost", cl.conn.Lost())
		poll(t, context.Background(), cl.conn)
	})
	t.Run("closed meanwhile", func(t *testing.T) {
		t.Parallel()
		for range 50 {
			cl, _ := session(t, true, nobody{})
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() { cl.conn.Poll(context.Background()) })
			}
			all.Go(func() { cl.conn.Close() })
			all.Wait()
		}
	})
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		cl, _ := session(t, true, nobody{})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		poll(t, ctx, cl.conn)
		poll(t, context.Background(), cl.conn)
	})
	t.Run("rows that nobody takes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			cl, server, stop := bubble(t)
			defer stop()
			polled := make(chan struct{})
			go func() { cl.conn.Poll(context.Background()); close(polled) }()
			synctest.Wait() // it has begun
			go func() {     // a result comes; ends when the session is closed
				_, _ = io.ReadFull(server, make([]byte, len(query("SELECT"))))
				for {
					if _, err := server.Write(bigRow); err != nil {
						return
					}
				}
			}()
			if _, err := cl.conn.Write(query("SELECT")); err != nil {
				t.Error(err)
			}
			<-polled
		})
	})
}

// bubble is an active session over a pipe, in a synctest bubble.
func bubble(t *testing.T) (cl *client, server net.Conn, stop func()) {
	near, server := net.Pipe()
	conn := wire.NewConn(near, nobody{})
	cl = &client{t: t, conn: conn, buf: make([]byte, 4096)}
	go func() { _, _ = server.Write(join(greeting()...)) }()
	if _, err := cl.readAnswer(len(join(greeting()...))); err != nil {
		t.Fatal(err)
	}
	if !conn.Activate() {
		t.Fatal("not active")
	}
	return cl, server, func() { conn.Close(); server.Close() }
}

// TestBackPressure: of a result that nobody reads only so much is kept; the
// server waits, and Close ends it.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cl, server, stop := bubble(t)
		defer stop()
		request := query("SELECT")
		go func() { _, _ = io.ReadFull(server, make([]byte, len(request))) }()
		if _, err := cl.conn.Write(request); err != nil {
			t.Fatal(err)
		}
		const total = 10 << 20
		var written atomic.Int64
		ended := make(chan error, 1)
		go func() {
			data := row(string(make([]byte, 1000)))
			_, _ = server.Write(rowDesc)
			for written.Load() < total {
				n, err := server.Write(data)
				written.Add(int64(n))
				if err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
		synctest.Wait()
		if n := written.Load(); n > wire.InboxSize+4*wire.BufSize {
			t.Errorf("%d bytes were taken", n)
		}
		if n := wire.InboxMemory(cl.conn); n > 3*wire.InboxSize {
			t.Errorf("%d bytes are kept", n)
		}
		// reading a part lets as much follow
		if _, err := cl.readAnswer(1 << 20); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := written.Load(); n < 1<<20 || n > 1<<20+wire.InboxSize+4*wire.BufSize {
			t.Errorf("%d bytes were taken after 1 MiB was read", n)
		}
		start := time.Now()
		cl.conn.Close()
		if d := time.Since(start); d > 0 {
			t.Errorf("Close took %v", d)
		}
		if err := <-ended; err == nil {
			t.Error("the server could send everything")
		}
		// what was kept can still be read, then the error comes
		if _, err := cl.readAnswer(1 << 30); err != net.ErrClosed {
			t.Error(err)
		}
	})
}

// TestLargeReads: an active session reads a large row with large reads.
func TestLargeReads(t *testing.T) {
	t.Parallel()
	reads := 0
	count := func(offset, available int) int { reads++; return available }
	conn := wire.NewConn(newScript(count, join(greeting()...), join(rowDesc, bigRow, tag("SELECT 1"), idle)), nobody{})
	defer conn.Close()
	cl := &client{t: t, conn: conn, buf: make([]byte, 1<<20)}
	mustAsk(t, cl, startupPacket, join(greeting()...))
	conn.Activate()
	mustAsk(t, cl, query("SELECT"), join(rowDesc, bigRow, tag("SELECT 1"), idle))
	conn.Close()
	if limit := 2 * len(bigRow) / wire.BufSize; reads > limit {
		t.Errorf("%d reads for a row of %d bytes, want at most %d", reads, len(bigRow), limit)
	}
}
