package pgnotify

import "net"

// Socket returns the session's socket, below TLS.
func (c *Conn) Socket() net.Conn { return c.s.link.Socket }
