package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A foreignConn gives a connection of DialContext what the sockets of package net have:
// deadlines, and a Close that ends Read and Write. The channels of x/crypto/ssh, for
// one, have no deadlines, and while the other side is silent their Close ends nothing.
// Whether a connection honours them cannot be asked, so this is done for all but
// sockets.
//
// A goroutine reads ahead, and each write has one of its own. When the connection is
// closed, they end as soon as the inner Read and Write do; nothing waits for them.
type foreignConn struct {
	net.Conn // the inner connection

	writeMu sync.Mutex // held by Write; guards out
	out     []byte     // what the inner Write is given; reused

	mu      sync.Mutex // guards the fields below
	changed sync.Cond  // one of them has changed
	closed  bool
	arrived bytes.Buffer // read ahead
	ended   error        // of the inner Read
	onEnd   func()       // called when ended is set
	stuck   bool         // Write has given an inner Write up

	readDeadline, writeDeadline deadline
}

// A deadline is that of Read or Write.
type deadline struct {
	timer  *time.Timer // until then; nil without a deadline in the future
	passed bool
}

const (
	firstRead = 4 << 10  // bytes of an inner Read at first
	maxPart   = 32 << 10 // and at most; also those of an inner Write
	maxAhead  = 64 << 10 // if so many wait to be read, nothing more is read
)

// newForeignConn takes ownership of conn.
func newForeignConn(conn net.Conn) *foreignConn {
	c := &foreignConn{Conn: conn}
	c.changed.L = &c.mu
	go c.readAhead() // ends when the inner Read does, once c is closed or at its end
	return c
}

// isSocket reports whether a connection keeps the promises of net.Conn because package
// net and the system do.
func isSocket(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// maxIdleReads is how often in a row an inner Read may return nothing at all.
const maxIdleReads = 100

// readAhead reads until the end.
func (c *foreignConn) readAhead() {
	part := make([]byte, firstRead)
	for idle := 0; ; {
		n, err := c.Conn.Read(part)
		if idle++; n > 0 {
			idle = 0
		} else if err == nil && idle == maxIdleReads {
			err = io.ErrNoProgress
		}
		if !c.arrive(part[:n], err) {
			return
		}
		if n == len(part) && n < maxPart { // much is coming
			part = make([]byte, 2*n)
		}
	}
}

// arrive takes over what the inner Read has returned, after waiting for room. It reports
// whether there is more to read.
func (c *foreignConn) arrive(b []byte, err error) bool {
	c.mu.Lock()
	for c.arrived.Len() >= maxAhead && !c.closed {
		c.changed.Wait()
	}
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.arrived.Write(b)
	c.ended = err
	c.changed.Broadcast()
	tell := c.onEnd
	c.mu.Unlock()
	if err != nil && tell != nil {
		tell()
	}
	return err == nil
}

// Read reads what has arrived, and waits for that.
func (c *foreignConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case c.arrived.Len() > 0:
			return c.take(p), nil
		case c.ended != nil:
			return 0, c.ended
		}
		c.changed.Wait()
	}
}

// take reads from what has arrived. An empty buffer is not kept if it is large.
func (c *foreignConn) take(p []byte) int {
	full := c.arrived.Len() >= maxAhead
	n, _ := c.arrived.Read(p)
	if full {
		c.changed.Broadcast() // there may be room
	}
	if c.arrived.Len() == 0 && c.arrived.Cap() > firstRead {
		c.arrived = bytes.Buffer{}
	}
	return n
}

// errStuck is the error of a Write after one that was given up.
var errStuck = errors.New("an earlier write has not ended")

// Write writes to the peer. When its deadline has passed or the connection was closed,
// the inner Write gets a moment to end and to say what it has sent. If it does not end,
// what it has may still be sent: Write then returns at least 1, and nothing more can be
// written.
func (c *foreignConn) Write(p []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	for n < len(p) && err == nil {
		var sent int
		sent, err = c.writePart(p[n:min(n+maxPart, len(p))])
		n += sent
	}
	return n, err
}

// A writing is an inner Write. The connection's mu guards all but part.
type writing struct {
	part    []byte
	over    bool
	n       int // the outcome, when it is over
	err     error
	givenUp bool
}

// writePart has a goroutine write p, which the caller of Write may change when Write has
// returned.
func (c *foreignConn) writePart(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.unwritable(); err != nil {
		return 0, err
	}
	c.out = append(c.out[:0], p...)
	w := &writing{part: c.out}
	go c.send(w) // ends when the inner Write does
	for !w.over && c.unwritable() == nil {
		c.changed.Wait()
	}
	if !w.over {
		if err := c.unwritable(); !c.awaitLate(w) {
			c.stuck = true
			return 1, err
		}
	}
	if cap(c.out) > firstRead {
		c.out = nil
	}
	return w.n, w.err
}

// lateTime is how long an inner Write that is to be given up may still take.
const lateTime = 10 * time.Millisecond

// awaitLate gives an inner Write a moment to end, and reports whether it has. The caller
// holds mu.
func (c *foreignConn) awaitLate(w *writing) bool {
	defer time.AfterFunc(lateTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		w.givenUp = true
		c.changed.Broadcast()
	}).Stop()
	for !w.over && !w.givenUp {
		c.changed.Wait()
	}
	return w.over
}

// unwritable returns why nothing can be written, or nil.
func (c *foreignConn) unwritable() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeDeadline.passed:
		return os.ErrDeadlineExceeded
	case c.stuck:
		return errStuck
	}
	return nil
}

func (c *foreignConn) send(w *writing) {
	n, err := c.Conn.Write(w.part)
	if err == nil && n < len(w.part) {
		err = io.ErrShortWrite
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.n, w.err, w.over = n, err, true
	c.changed.Broadcast()
}

// Close ends Read and Write, and closes the inner connection, which may take a moment
// and is not waited for any longer.
func (c *foreignConn) Close() error {
	if !c.end() {
		return net.ErrClosed
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Conn.Close() }() // ends when the inner Close does
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return nil
	}
}

// end reports whether the connection was open.
func (c *foreignConn) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.closed = true
	c.arrived, c.onEnd = bytes.Buffer{}, nil // may be kept by those who read and write
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.changed.Broadcast()
	return true
}

func (c *foreignConn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.writeDeadline)
}

func (c *foreignConn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline)
}

func (c *foreignConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.writeDeadline)
}

func (c *foreignConn) setDeadlines(t time.Time, deadlines ...*deadline) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	for _, d := range deadlines {
		d.stop()
		if !t.IsZero() {
			c.start(d, time.Until(t))
		}
	}
	c.changed.Broadcast()
	return nil
}

// stop removes the deadline.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
	*d = deadline{}
}

// start sets the deadline.
func (c *foreignConn) start(d *deadline, wait time.Duration) {
	if wait <= 0 {
		d.passed = true
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.timer == timer { // it was not replaced meanwhile
			d.passed = true
			c.changed.Broadcast()
		}
	})
	d.timer = timer
}

// SyscallConn implements syscall.Conn if the inner connection does.
func (c *foreignConn) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := c.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// readable reports whether Read would return at once.
func (c *foreignConn) readable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.arrived.Len() > 0 || c.ended != nil
}

// watch has f called once nothing more can arrive. If that is so already, it calls f
// itself.
func (c *foreignConn) watch(f func()) {
	c.mu.Lock()
	c.onEnd = f
	ended := c.ended != nil && !c.closed
	c.mu.Unlock()
	if ended {
		f()
	}
}
