package transport

import (
	"net"
	"sync/atomic"
	"time"
)

// Conn is an open connection. Its net.Conn is safe for concurrent use like any other;
// the other fields are set once, by [Route.Connect], and only read after that. The
// caller of Connect owns and closes it.
type Conn struct {
	net.Conn // what the protocol is spoken over: a *tls.Conn, or Socket itself

	// Socket lies below TLS. It is for its descriptor, and for closing at once. Nothing
	// may be read from it or written to it except through the net.Conn.
	Socket net.Conn

	// Route leads to the same server again: its address is resolved, and its encryption
	// is the one agreed on, Plain or Required.
	Route Route

	// Encrypted reports whether TLS is spoken.
	Encrypted bool

	// Verified reports whether the server's certificate had to be verified.
	Verified bool

	records *recordSocket // what TLS writes to; nil without
}

// Write writes to the peer. If it fails, it returns 0 only if the peer got nothing of
// p: a TLS record that was sent in part counts as 1 byte.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && n == 0 && c.records != nil && c.records.torn.Load() {
		n = min(1, len(p))
	}
	return n, err
}

// A recordSocket notices that a write failed half-way. TLS does not report this: to it,
// a record is written or not.
type recordSocket struct {
	net.Conn
	torn atomic.Bool
}

func (s *recordSocket) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil && n > 0 {
		s.torn.Store(true)
	}
	return n, err
}

// ReadsAhead reports whether a goroutine reads what arrives as soon as it does. This is
// so for all connections of DialContext but sockets.
func (c *Conn) ReadsAhead() bool {
	_, foreign := c.Socket.(*foreignConn)
	return foreign
}

// Readable reports whether something has arrived on a connection that is read ahead, or
// its end.
func (c *Conn) Readable() bool {
	foreign, ok := c.Socket.(*foreignConn)
	return ok && foreign.readable()
}

// Watch has f called when a connection that is read ahead has ended. What had arrived
// before may still be unread. f must not block. Close ends the watch.
func (c *Conn) Watch(f func()) {
	if foreign, ok := c.Socket.(*foreignConn); ok {
		foreign.watch(f)
	}
}

// closeTime bounds how long Close waits for the system to take TLS's close_notify, and
// for others' code.
const closeTime = 50 * time.Millisecond

// Close closes the connection. Under TLS it first tells the peer, and aborts if that
// takes longer than a moment: TLS itself would wait for seconds if the peer does not
// read, whatever the write deadline. Close unblocks Read and Write, and is safe for
// concurrent use.
func (c *Conn) Close() error {
	if c.Encrypted { // a timer may wake a thread, which a plain connection need not pay for
		defer time.AfterFunc(closeTime, func() { _ = c.Abort() }).Stop()
	}
	return c.Conn.Close()
}

// Abort closes the socket at once, without TLS's close_notify. It unblocks Read and
// Write, and is safe for concurrent use. It may be called repeatedly and together with
// Close; its error is then [net.ErrClosed].
func (c *Conn) Abort() error { return c.Socket.Close() }
