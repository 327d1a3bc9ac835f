package pgnotify

import (
	"context"
	"database/sql/driver"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// A wrapper that shows nothing of what it wraps still passes calls on. A call whose
// context holds a seeker reaches the session, which makes itself known, without the
// server, the session's turn, or its state. The ways are tried in order until one arrives.

// seekText is the statement of such a call, for those who log statements.
const seekText = "-- pgnotify.FromConn looks for its session; the server does not get this"

// seekTime bounds the Ping that a foreign driver gets.
const seekTime = 5 * time.Second

// A seeker is a context that looks for the session beneath wrappers.
type seeker struct {
	context.Context
	found   *Conn
	arrived atomic.Bool // at a driver, or at a wrapper that waits for the context
}

type seekerKey struct{}

func (k *seeker) Value(key any) any {
	if key == (seekerKey{}) {
		return k
	}
	return k.Context.Value(key)
}

// Done is for whoever may block. Wrappers only pass a context on, and a session of ours
// answers first, so that is a foreign driver.
func (k *seeker) Done() <-chan struct{} {
	k.arrived.Store(true)
	return k.Context.Done()
}

// seek returns the handle of the session that a call of one of conn's methods reaches,
// or nil.
func seek(conn any) *Conn {
	ctx, cancel := context.WithTimeout(background, seekTime)
	defer cancel()
	k := &seeker{Context: ctx}
	for _, way := range []func(*seeker, any){byPing, byExec, byQuery, byPrepare} {
		k.try(way, conn)
		if k.found != nil || k.arrived.Load() {
			break
		}
	}
	return k.found
}

// try calls one method of conn, which may panic because it is nil inside.
func (k *seeker) try(way func(*seeker, any), conn any) {
	defer func() { _ = recover() }()
	way(k, conn)
}

func byPing(k *seeker, conn any) {
	if c, ok := conn.(driver.Pinger); ok {
		_ = c.Ping(k)
	}
}

func byExec(k *seeker, conn any) {
	if c, ok := conn.(driver.ExecerContext); ok {
		_, _ = c.ExecContext(k, seekText, nil)
	}
}

func byQuery(k *seeker, conn any) {
	if c, ok := conn.(driver.QueryerContext); ok {
		if rows, err := c.QueryContext(k, seekText, nil); err == nil {
			_ = rows.Close()
		}
	}
}

func byPrepare(k *seeker, conn any) {
	if c, ok := conn.(driver.ConnPrepareContext); ok {
		if st, err := c.PrepareContext(k, seekText); err == nil {
			_ = st.Close()
		}
	}
}

// isSeeking reports whether a statement is that of a seeker, to which a wrapper may have
// added a comment. If the wrapper has lost the context, the statement must not reach the
// server either.
func isSeeking(query string) bool {
	if strings.HasPrefix(query, seekText) {
		return !strings.Contains(query, "\n")
	}
	return strings.HasSuffix(query, seekText)
}

// answer makes the session known to the seeker of ctx, and reports whether there is one.
func (c *Conn) answer(ctx context.Context) bool {
	k, ok := ctx.Value(seekerKey{}).(*seeker)
	if ok {
		k.found = c.handle()
	}
	return ok
}

// noRows is the answer to a seeker's query.
type noRows struct{}

func (noRows) Columns() []string         { return nil }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }
