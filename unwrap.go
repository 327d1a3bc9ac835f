package pgnotify

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
)

// maxWrappers is how many layers Unwrap examines, the outermost included.
const maxWrappers = 8

// FromConn returns the handle of the session that conn holds, even beneath wrappers
// such as those for tracing; see [Unwrap]. The handle's own methods are safe for concurrent use, and
// fail with [ErrReleased] once conn is closed; the handle itself needs no closing.
// FromConn waits for a statement that is running on conn. Its error is [ErrNotPgnotify]
// for another driver's connection, and [sql.ErrConnDone] if conn is closed. Beneath a
// wrapper that hides IsValid and ResetSession it ends what the last *sql.Conn has left in
// the session; if that may be a transaction, the error is [driver.ErrBadConn], and conn
// is closed.
func FromConn(conn *sql.Conn) (*Conn, error) {
	if conn == nil {
		return nil, fmt.Errorf("%w: the *sql.Conn is nil", ErrNotPgnotify)
	}
	var c *Conn
	err := conn.Raw(func(driverConn any) (err error) {
		if c, err = Unwrap(driverConn); err != nil {
			return err
		}
		if _, ok := driverConn.(*Conn); ok {
			c.s.addTrace(noWrapper)
			return nil
		}
		if err = c.s.lendTo(conn); err == nil {
			c = c.s.self.handle()
		}
		return err
	})
	return c, err
}

// Unwrap returns the handle of the session behind driverConn, the value that
// [sql.Conn.Raw] passes, like [FromConn]. It looks beneath wrappers, up to a few levels
// deep, that have a method Raw, Unwrap or WrappedConn without arguments that returns a
// [driver.Conn] or an any.
//
// Beneath other wrappers it finds the session if they pass contexts on: with a Ping or,
// where that does not get through, with a statement that is only a comment. The session
// answers both by itself, whatever state it is in, and the server gets nothing. The
// wrapper may count or log them. A foreign driver that has a Ping gets no statement.
//
// The error is [ErrNotPgnotify].
func Unwrap(driverConn any) (*Conn, error) {
	inner := driverConn
	for range maxWrappers {
		if c, ok := inner.(*Conn); ok && c != nil {
			return c.handle(), nil
		}
		next := unwrapOnce(inner)
		if next == nil {
			break
		}
		inner = next
	}
	if c := seek(inner); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%w: %T", ErrNotPgnotify, driverConn)
}

// unwrapOnce returns what lies beneath one wrapper, or nil for anything else, or if the
// wrapper panics because it is nil.
func unwrapOnce(conn any) (inner any) {
	defer func() {
		if recover() != nil {
			inner = nil
		}
	}()
	switch w := conn.(type) {
	case interface{ Raw() driver.Conn }: // otelsql
		return w.Raw()
	case interface{ Raw() any }:
		return w.Raw()
	case interface{ WrappedConn() driver.Conn }: // dd-trace-go
		return w.WrappedConn()
	case interface{ WrappedConn() any }:
		return w.WrappedConn()
	case interface{ Unwrap() driver.Conn }:
		return w.Unwrap()
	case interface{ Unwrap() any }:
		return w.Unwrap()
	}
	return nil
}

// handle returns a handle of the present lease.
func (c *Conn) handle() *Conn {
	if c.lease != 0 {
		return c
	}
	c.s.addTrace(hasHandle)
	c.s.use()
	return &Conn{s: c.s, lease: c.s.lease.Load()}
}
