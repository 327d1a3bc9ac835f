package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pgnotify/pgnotify/internal/transport"
	"github.com/pgnotify/pgnotify/internal/wire"
)

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
	k.hear()
	if k.conn, err = Unwrap(driverConn); err != nil {
		_ = driverConn.Close()
		return nil, err
	}
	k.hearing, k.suspect = k.pid(), l.config.DeliveryProbe || l.deaf
	deliver := func(items []wire.Notification) { l.deliver(k, items) }
	k.conn.s.hear().feed.Store(&deliver)
	k.conn.s.activate()
	return k, nil
}

// connectCaught calls the connector. Its BeforeConnect or OnConnect may panic, or end
// their goroutine, so that must not be the Listener's.
func (l *Listener) connectCaught(ctx context.Context) (conn driver.Conn, err error) {
	done := make(chan struct{})
	go func() { // ends when the connector returns, which ctx makes it do; joined below
		defer close(done)
		err = errEndedGoroutine
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("connecting panicked: %v", p)
				l.config.Logger.Error("pgnotify: listener: connecting panicked", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		if conn, err = l.connector.Connect(ctx); conn == nil && err == nil {
			err = errNoConn
		}
	}()
	<-done
	return conn, err
}

var (
	errEndedGoroutine = errors.New("connecting ended its goroutine")
	errNoConn         = errors.New("the connector returned no connection and no error")
)

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
