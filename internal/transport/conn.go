package transport

import "net"

// Conn is an open connection. Its net.Conn is safe for concurrent use as any
// is; the other fields are set once, by [Route.Connect], and only read after.
// Whoever got it from Connect owns and closes it.
type Conn struct {
	net.Conn // what the protocol is spoken over: a *tls.Conn, or Socket itself

	// Socket is below TLS: for its descriptor, and for closing at once.
	// Nothing may be read from it or written to it past the net.Conn.
	Socket net.Conn

	// Route leads to the same server again: its address is resolved, and its
	// encryption is what was agreed, Plain or Required.
	Route Route

	// Encrypted reports whether TLS is spoken.
	Encrypted bool
}

// Abort closes the socket at once, without TLS's close_notify, for which Close
// may wait for seconds if the peer does not read. It unblocks Read and Write, is
// safe for concurrent use, and may be called again and besides Close; its error
// is then [net.ErrClosed].
func (c *Conn) Abort() error { return c.Socket.Close() }
