package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// A stubConn is a connection without deadlines whose Close ends nothing. Its functions
// may block.
type stubConn struct {
	noDeadlines
	read, write func(p []byte) (int, error)
	close       func() error
}

func (c *stubConn) Read(p []byte) (int, error)  { return c.read(p) }
func (c *stubConn) Write(p []byte) (int, error) { return c.write(p) }
func (c *stubConn) Close() error                { return c.close() }

// stub connects by a stubConn. What it leaves nil blocks until the test ends.
func stub(t *testing.T, c *stubConn) *transport.Conn {
	t.Helper()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	block := func([]byte) (int, error) { <-ended; return 0, io.EOF }
	if c.read == nil {
		c.read = block
	}
	if c.write == nil {
		c.write = block
	}
	if c.close == nil {
		c.close = func() error { return nil }
	}
	d := &transport.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	conn, err := connect(bounded(t), d, transport.Endpoint{Host: "stub"}, plainPolicy(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if !conn.ReadsAhead() {
		t.Fatal("it is not read ahead")
	}
	return conn
}

func TestDeadlinesOverAForeignConn(t *testing.T) {
	t.Parallel()
	conn := stub(t, &stubConn{})
	for _, past := range []bool{true, false} {
		deadline := time.Now().Add(10 * time.Millisecond)
		if past {
			deadline = time.Unix(1, 0)
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(make([]byte, 1))
		if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %d, %v", n, err)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("not a timeout: %v", err)
		}
	}
	if err := conn.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write that did not begin: %d, %v", n, err)
	}
}

// A deadline that is moved wakes those who wait, and one that was replaced does nothing.
func TestMovedDeadlineOverAForeignConn(t *testing.T) {
	t.Parallel()
	came := make(chan []byte)
	conn := stub(t, &stubConn{read: func(p []byte) (int, error) {
		b, ok := <-came
		if !ok {
			return 0, io.EOF
		}
		return copy(p, b), nil
	}})
	defer close(came)
	waiting := make(chan error, 1)
	go func() { // joined below
		_, err := conn.Read(make([]byte, 1))
		waiting <- err
	}()
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	if err := <-waiting; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Hour))
	_ = conn.SetDeadline(time.Time{})
	came <- []byte("x")
	var b [1]byte
	if n, err := conn.Read(b[:]); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// What is under way when a Write is given up may still be sent, so it counts as sent;
// nothing comes after it, and the caller's memory is not read any more.
func TestWriteThatIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, byClose := range []bool{false, true} {
		began, goOn := make(chan struct{}), make(chan struct{})
		written := make(chan []byte, 1)
		var writes atomic.Int32
		conn := stub(t, &stubConn{write: func(p []byte) (int, error) {
			writes.Add(1)
			close(began)
			<-goOn
			written <- bytes.Clone(p)
			return len(p), nil
		}})
		go func() { // ends with the connection's Close or deadline
			<-began
			if byClose {
				conn.Close()
			} else {
				_ = conn.SetWriteDeadline(time.Unix(1, 0))
			}
		}()
		p := []byte("text")
		n, err := conn.Write(p)
		if n != 1 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %d, %v", n, err)
		}
		copy(p, "----")
		_ = conn.SetWriteDeadline(time.Time{})
		if n, err := conn.Write(p); n != 0 || err == nil {
			t.Errorf("Write after it: %d, %v", n, err)
		}
		close(goOn)
		if got := <-written; string(got) != "text" || writes.Load() != 1 {
			t.Errorf("%q was written, %d times", got, writes.Load())
		}
	}
}

// An inner Write that ends when the connection is closed tells what it has sent.
func TestWriteThatCloseEnds(t *testing.T) {
	t.Parallel()
	began, closed := make(chan struct{}), make(chan struct{})
	conn := stub(t, &stubConn{
		write: func([]byte) (int, error) { close(began); <-closed; return 0, net.ErrClosed },
		close: func() error { close(closed); return nil },
	})
	go func() { <-began; conn.Close() }() // ends with it
	if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %d, %v", n, err)
	}
}

// Large writes arrive in order, in parts; what the inner Write says of a part counts.
func TestPartsOfAWrite(t *testing.T) {
	t.Parallel()
	text := make([]byte, 200_000)
	for i := range text {
		text[i] = byte(i * 7 / 5)
	}
	full := errors.New("full")
	var got []byte
	conn := stub(t, &stubConn{write: func(p []byte) (int, error) {
		if len(got) > 150_000 {
			return 5, full
		}
		got = append(got, p...)
		return len(p), nil
	}})
	n, err := conn.Write(text)
	if err != full || n != len(got)+5 || !bytes.Equal(got, text[:len(got)]) {
		t.Errorf("%d, %v; %d bytes arrived", n, err, len(got))
	}
	short := stub(t, &stubConn{write: func([]byte) (int, error) { return 1, nil }})
	if n, err := short.Write([]byte("xy")); n != 1 || err != io.ErrShortWrite {
		t.Errorf("%d, %v", n, err)
	}
}

// What is read ahead is bounded, comes in order, and before the end; the end is told.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	const total = 1 << 20
	var read atomic.Int64
	end := errors.New("the end")
	conn := stub(t, &stubConn{read: func(p []byte) (int, error) {
		from := read.Load()
		n := min(len(p), int(total-from))
		for i := range n {
			p[i] = byte((from + int64(i)) % 251)
		}
		if read.Add(int64(n)) == total {
			return n, end
		}
		return n, nil
	}})
	ended := make(chan struct{})
	conn.Watch(func() { close(ended) })
	for !conn.Readable() {
		time.Sleep(time.Millisecond) // polls: nothing tells
	}
	var got []byte
	p := make([]byte, 3000)
	for {
		if ahead := read.Load() - int64(len(got)); ahead > 200_000 {
			t.Fatalf("%d bytes are read ahead", ahead)
		}
		n, err := conn.Read(p)
		got = append(got, p[:n]...)
		if err == end && n == 0 {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	<-ended
	want := make([]byte, total)
	for i := range want {
		want[i] = byte(i % 251)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d bytes, or others", len(got))
	}
	told := false
	if conn.Watch(func() { told = true }); !told {
		t.Error("a watch that begins after the end is not told")
	}
}

// A Read that returns nothing, again and again, ends the connection.
func TestReadWithoutProgress(t *testing.T) {
	t.Parallel()
	conn := stub(t, &stubConn{read: func([]byte) (int, error) { return 0, nil }})
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.ErrNoProgress {
		t.Errorf("%d, %v", n, err)
	}
}

// Close ends a Read and returns, although the inner Close and Read do not.
func TestCloseOfAForeignConnWhoseCloseBlocks(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	defer close(ended)
	conn := stub(t, &stubConn{close: func() error { <-ended; return nil }})
	reading := make(chan error, 1)
	go func() { // ended by Close
		_, err := conn.Read(make([]byte, 1))
		reading <- err
	}()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := conn.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetDeadline: %v", err)
	}
}

// A DialContext that ignores its context is left behind; what it still returns is
// closed, and too many of them are refused.
func TestDialContextThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	var closed, called atomic.Int32
	dialer := &transport.Dialer{Left: new(atomic.Int32), DialContext: func(context.Context, string, string) (net.Conn, error) {
		called.Add(1)
		<-goOn
		return &stubConn{read: func([]byte) (int, error) { return 0, io.EOF }, close: func() error { closed.Add(1); return nil }}, nil
	}}
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	var waiting sync.WaitGroup
	for range 100 {
		waiting.Go(func() {
			if _, err := connect(ctx, dialer, transport.Endpoint{Host: "nowhere"}, plainPolicy(t)); !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
		})
	}
	for called.Load() < 100 {
		time.Sleep(time.Millisecond) // polls: nothing tells
	}
	cancel()
	waiting.Wait()
	if _, err := connect(bounded(t), dialer, transport.Endpoint{Host: "nowhere"}, plainPolicy(t)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more: %v", err)
	}
	if n := called.Load(); n != 100 || dialer.Left.Load() != n {
		t.Errorf("%d calls, %d are counted", n, dialer.Left.Load())
	}
	close(goOn)
	for closed.Load() != called.Load() || dialer.Left.Load() != 0 {
		time.Sleep(time.Millisecond) // polls: nothing tells
	}
}
