//go:build !unix

package faultproxy

import "net"

// A reader reads from a client. Without a way to look at a unix socket first, a
// reset there is just the end.
type reader struct {
	net.Conn
	leave bool
}

func newReader(conn net.Conn) *reader { return &reader{Conn: conn} }

func (r *reader) look(p []byte) (int, error) { return r.Read(p) }

func (r *reader) take(int) error { return nil }
