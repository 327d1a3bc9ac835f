package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// errSilent is the reason for giving up a session that does not answer in time.
var errSilent = errors.New("no answer within HeartbeatTimeout")

// errInTx is the reason for giving up a session that was left in a transaction.
var errInTx = errors.New("the session is in a transaction, which hears nothing")

// bound gives the session up if nothing arrives over it for limit while a request is
// under way, or when ctx ends. The answer comes after the notifications that the server
// sent before it: while these are being delivered, the session is not silent.
func (k *link) bound(ctx context.Context, limit time.Duration) (stop func()) {
	w, began := k.conn.s.wire, now()
	var over atomic.Bool
	var timer *time.Timer
	timer = time.AfterFunc(math.MaxInt64, func() {
		if over.Load() {
			return
		}
		silent := now() - max(began, time.Duration(k.heard.Load()))
		if silent < limit {
			timer.Reset(limit - silent)
			return
		}
		w.Abort(errSilent)
	})
	timer.Reset(limit) // not before timer is set
	unwatch := context.AfterFunc(ctx, func() { w.Abort(ErrClosed) })
	return func() {
		over.Store(true)
		timer.Stop()
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
	if _, err := s.pq.ExecContext(background, c.statements(), nil); err != nil {
		l.failed(c)
		return err
	}
	l.acknowledge(c)
	k.hear()
	return nil
}

// row runs a query that returns one row.
func (k *link) row(ctx context.Context, query string, limit time.Duration, columns int) (_ []driver.Value, err error) {
	defer k.bound(ctx, limit)()
	rows, err := k.conn.query(background, query, nil)
	if err != nil {
		return nil, err
	}
	values := make([]driver.Value, columns)
	err = rows.Next(values)
	if e := rows.Close(); err == nil || err == io.EOF {
		err = errors.Join(err, e)
	}
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
