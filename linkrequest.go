package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/awake"
)

// errSilent is the reason for giving up a session that does not answer in time.
var errSilent = errors.New("no answer within HeartbeatTimeout")

// errInTx is the reason for giving up a session that was left in a transaction.
var errInTx = errors.New("the session is in a transaction, which hears nothing")

// bound gives the session up if nothing arrives over it for limit while a request is
// under way, or when ctx ends. The answer comes after the notifications that the server
// sent before it: while these are being delivered, the session is not silent. Nor is it
// while the process itself is suspended.
func (k *link) bound(ctx context.Context, limit time.Duration) (stop func()) {
	w := k.conn.s.wire
	unbind := awake.AfterSilence(limit, k.lastHeard, func() { w.Abort(errSilent) })
	unwatch := context.AfterFunc(ctx, func() { w.Abort(ErrClosed) })
	return func() {
		unbind()
		unwatch()
	}
}

// exec runs statements that return no rows.
func (k *link) exec(ctx context.Context, statements string, limit time.Duration) error {
	defer k.bound(ctx, limit)()
	return k.conn.run(background, statements)
}

// channelTime is how long the server may take for a LISTEN beyond the round trip: it
// checks all the others.
const channelTime = 2 * time.Millisecond

// send sends a change, which is in flight for as long as the request has the session's
// turn: no other request's LISTEN is taken for it.
func (l *Listener) send(ctx context.Context, k *link, c *change) (err error) {
	limit := l.config.HeartbeatTimeout + time.Duration(c.size())*channelTime
	defer k.bound(ctx, max(limit, l.config.HeartbeatTimeout))() // max: the sum may overflow
	s := k.conn.s
	if err := s.beginLeased(background, 0); err != nil {
		return err
	}
	defer s.end(&err)
	if s.wire.Status() != 'I' {
		return errInTx
	}
	l.begin(k, c)
	backend, err := k.change(c.statements())
	if err != nil {
		l.failed(c)
		return err
	}
	l.acknowledge(c)
	k.hear()
	if backend != 0 {
		l.located(k, backend)
	}
	return nil
}

// change makes LISTENs and UNLISTENs, and returns which process has made them, or 0
// where the session is known to have none but its own.
func (k *link) change(statements string) (backend uint32, err error) {
	if k.direct() {
		_, err = k.conn.s.pq.ExecContext(background, statements, nil)
		return 0, err
	}
	rows, err := k.conn.s.pq.QueryContext(background, statements+backendQuery, nil)
	if err != nil {
		return 0, err
	}
	values, err := oneRow(rows, 1)
	if err != nil {
		return 0, err
	}
	return backendOf(values[0]), nil
}

// backendOf returns the number of a server process.
func backendOf(value driver.Value) uint32 {
	n, _ := value.(int64)
	return uint32(n)
}

// oneRow reads the first row of an answer, and the rest of it.
func oneRow(rows driver.Rows, columns int) ([]driver.Value, error) {
	values := make([]driver.Value, columns)
	err := rows.Next(values)
	if e := rows.Close(); err == nil || err == io.EOF {
		err = errors.Join(err, e)
	}
	return values, err
}

// row runs a query that returns one row.
func (k *link) row(ctx context.Context, query string, limit time.Duration, columns int) (_ []driver.Value, err error) {
	defer k.bound(ctx, limit)()
	rows, err := k.conn.query(background, query, nil)
	if err != nil {
		return nil, err
	}
	values, err := oneRow(rows, columns)
	k.hear()
	if err == nil && k.conn.s.wire.Status() != 'I' {
		err = errInTx
	}
	return values, err
}

// isChannelFault reports whether the server refused a statement because of its content,
// such as a name that the database's encoding cannot represent.
func isChannelFault(err error) bool {
	var server *pq.Error
	if IsDisconnect(err) || !errors.As(err, &server) {
		return false
	}
	class := server.Code.Class()
	return class == "22" || class == "42"
}
