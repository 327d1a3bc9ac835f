package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
	"github.com/pgnotify/pgnotify/internal/wire"
)

// errSilent is the reason for giving up a session that does not answer in time.
var errSilent = errors.New("no answer within HeartbeatTimeout")

// A link is a session of a Listener. The Listener's goroutine makes its requests; the
// session's own reader delivers its notifications.
type link struct {
	driverConn driver.Conn // from the connector, with its wrappers; owned
	conn       *Conn
	since      time.Time
	listened   bool  // it has listened to all that was wanted at least once
	backend    int64 // the last pg_backend_pid(); 0 before

	// The Listener's lock guards the fields below.
	heard   time.Time     // when something last arrived
	certain time.Time     // when the last answered request was sent: what was sent before has arrived
	probe   string        // the channel of the delivery probe
	arrived chan struct{} // closed when something has arrived on it
}

// connectPatience is how long an attempt to connect may take for each host if the
// connector has no connect_timeout.
const connectPatience = 10 * time.Second

// connect opens a session, and has its reader deliver to the Listener.
func (l *Listener) connect(ctx context.Context) (*link, error) {
	ctx, stop := l.boundConnect(ctx)
	defer stop()
	driverConn, err := l.connectCaught(ctx)
	if err != nil {
		return nil, err
	}
	k := &link{driverConn: driverConn, since: time.Now()}
	if k.conn, err = Unwrap(driverConn); err != nil {
		_ = driverConn.Close()
		return nil, err
	}
	deliver := func(items []wire.Notification) { l.deliver(k, items) }
	k.conn.s.hear().feed.Store(&deliver)
	k.conn.s.activate()
	return k, nil
}

// connectCaught calls the connector and recovers from a panic in its BeforeConnect or
// OnConnect, which on this goroutine would end the program.
func (l *Listener) connectCaught(ctx context.Context) (_ driver.Conn, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("connecting panicked: %v", p)
			l.config.Logger.Error("pgnotify: listener: connecting panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return l.connector.Connect(ctx)
}

// boundConnect bounds an attempt to connect, unless the connector does so itself.
func (l *Listener) boundConnect(ctx context.Context) (context.Context, context.CancelFunc) {
	hosts := 3 // assumed for a connector that cannot be looked into
	if c, ok := l.connector.(*Connector); ok {
		if c.config.ConnectTimeout > 0 {
			return context.WithCancel(ctx)
		}
		hosts = len(transport.Endpoints(&c.config.Config))
	}
	return context.WithTimeoutCause(ctx, time.Duration(hosts)*connectPatience, errNoConnection)
}

var errNoConnection = errors.New("no connection within 10 s for each host")

func (k *link) host() string          { return k.conn.s.link.Route.String() }
func (k *link) pid() uint32           { return k.conn.PID() }
func (k *link) lost() <-chan struct{} { return k.conn.s.wire.Lost() }

// why returns why the session was lost or, if it was not, the err with which it was
// given up.
func (k *link) why(err error) error {
	k.conn.s.wire.CheckFatal()
	if lost := k.conn.s.disconnectError(); lost != nil {
		return lost
	}
	return err
}

// close ends the session, and waits for its reader.
func (k *link) close() { _ = k.driverConn.Close() }

// bound gives the session up if a request does not end in time, or when ctx ends.
func (k *link) bound(ctx context.Context, limit time.Duration) (stop func()) {
	w := k.conn.s.wire
	timer := time.AfterFunc(limit, func() { w.Abort(errSilent) })
	unwatch := context.AfterFunc(ctx, func() { w.Abort(ErrClosed) })
	return func() {
		timer.Stop()
		unwatch()
	}
}

// exec runs statements that return no rows.
func (k *link) exec(ctx context.Context, statements string, limit time.Duration) error {
	defer k.bound(ctx, limit)()
	return k.conn.run(background, statements)
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
