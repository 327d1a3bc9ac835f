package main

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
	"github.com/lib/pq"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/driver/pgdriver"

	"github.com/pgnotify/pgnotify"
)

// The names of those that hear, in tables.
const (
	connName          = "pgnotify Conn"
	listenerName      = "pgnotify Listener"
	eventsName        = "Listener, Events"
	libpqListenerName = "lib/pq Listener"
	pgxConnName       = "pgx"
	pgxBareName       = "pgx, Background"
	pgxlistenName     = "pgxlisten"
	bunName           = "bun pgdriver"
)

var errEnded = errors.New("the session, or the listener, has ended")

// quiet is a logger for what happens on purpose.
var quiet = slog.New(slog.DiscardHandler)

func joinClose(err error, close func() error) error { return errors.Join(err, close()) }

// openConn returns a session of pgnotify that listens.
func openConn(ctx context.Context, dsn string, channels []string) (_ *pgnotify.Conn, close func() error, err error) {
	db, err := sql.Open("pgnotify", dsn)
	if err != nil {
		return nil, nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, joinClose(err, db.Close)
	}
	close = func() error { return joinClose(conn.Close(), db.Close) }
	pc, err := pgnotify.FromConn(conn)
	if err == nil {
		err = pc.Listen(ctx, channels...)
	}
	if err != nil {
		return nil, nil, joinClose(err, close)
	}
	return pc, close, nil
}

// hearConn is pgnotify's Conn.Notifications.
func hearConn(ctx context.Context, dsn string, channels []string, _ int) (hearer, error) {
	pc, close, err := openConn(ctx, dsn, channels)
	if err != nil {
		return hearer{}, err
	}
	return hearer{func(ctx context.Context, count, size int) (taken, dropped int, _ error) {
		for n, err := range pc.Notifications(ctx) {
			if gap, ok := err.(*pgnotify.GapError); ok {
				taken += int(gap.Gap.Dropped)
				dropped += int(gap.Gap.Dropped)
			} else if err != nil {
				return taken, dropped, err
			} else if taken++; len(n.Payload) != size {
				return taken, dropped, errSize(n.Payload, size)
			}
			if taken >= count {
				break
			}
		}
		return taken, dropped, nil
	}, close}, nil
}

// openListener returns a Listener of pgnotify. It has no heartbeat, which a
// scripted server could not answer.
func openListener(dsn string) (*pgnotify.Listener, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return pgnotify.NewListener(connector, &pgnotify.ListenerConfig{Heartbeat: -1, Logger: quiet})
}

// openSubscription returns a subscription with room for all that is sent ahead.
func openSubscription(ctx context.Context, dsn string, channels []string, unit int) (_ *pgnotify.Subscription, close func() error, err error) {
	l, err := openListener(dsn)
	if err != nil {
		return nil, nil, err
	}
	config := pgnotify.SubscriptionConfig{Channels: channels, QueueSize: 2*unitsAhead*unit + 1}
	sub, err := l.SubscribeConfig(ctx, config)
	if err != nil {
		return nil, nil, joinClose(err, l.Close)
	}
	return sub, l.Close, nil
}

// hearListener is pgnotify's Subscription.All.
func hearListener(ctx context.Context, dsn string, channels []string, unit int) (hearer, error) {
	sub, close, err := openSubscription(ctx, dsn, channels, unit)
	if err != nil {
		return hearer{}, err
	}
	return hearer{func(ctx context.Context, count, size int) (taken, dropped int, _ error) {
		for n, err := range sub.All(ctx) {
			if err != nil {
				n, err := overflowed(err)
				if err != nil {
					return taken, dropped, err
				}
				taken += n
				dropped += n
			} else if taken++; len(n.Payload) != size {
				return taken, dropped, errSize(n.Payload, size)
			}
			if taken >= count {
				break
			}
		}
		return taken, dropped, nil
	}, close}, nil
}

// hearEvents is pgnotify's Subscription.Events.
func hearEvents(ctx context.Context, dsn string, channels []string, unit int) (hearer, error) {
	sub, close, err := openSubscription(ctx, dsn, channels, unit)
	if err != nil {
		return hearer{}, err
	}
	events := sub.Events()
	return hearer{func(ctx context.Context, count, size int) (taken, dropped int, _ error) {
		for taken < count {
			select {
			case e, ok := <-events:
				switch {
				case !ok:
					return taken, dropped, sub.Err()
				case e.Gap != nil:
					taken += int(e.Gap.Dropped)
					dropped += int(e.Gap.Dropped)
				case len(e.Payload) != size:
					return taken, dropped, errSize(e.Payload, size)
				default:
					taken++
				}
			case <-ctx.Done():
				return taken, dropped, ctx.Err()
			}
		}
		return taken, dropped, nil
	}, close}, nil
}

// overflowed returns how many notifications a subscription has dropped, if that is
// what err tells.
func overflowed(err error) (int, error) {
	var gap *pgnotify.GapError
	if errors.As(err, &gap) && gap.Gap.Cause == pgnotify.GapOverflow {
		return int(gap.Gap.Dropped), nil
	}
	return 0, err
}

// openLibpq returns a listener of lib/pq that is connected: what comes before
// that, it drops.
func openLibpq(ctx context.Context, dsn string) (*pq.Listener, error) {
	connected := make(chan error, 1)
	l := pq.NewListener(dsn, time.Millisecond, time.Second, func(e pq.ListenerEventType, err error) {
		if e == pq.ListenerEventConnected || e == pq.ListenerEventConnectionAttemptFailed {
			select {
			case connected <- err:
			default:
			}
		}
	})
	var err error
	select {
	case err = <-connected:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, joinClose(err, l.Close)
	}
	return l, nil
}

// listenLibpq has it listen to channels.
func listenLibpq(ctx context.Context, dsn string, channels []string) (*pq.Listener, error) {
	l, err := openLibpq(ctx, dsn)
	if err != nil {
		return nil, err
	}
	for _, channel := range channels {
		if err := l.Listen(channel); err != nil {
			return nil, joinClose(err, l.Close)
		}
	}
	return l, nil
}

// hearLibpq is lib/pq's Listener.Notify.
func hearLibpq(ctx context.Context, dsn string, channels []string, _ int) (hearer, error) {
	l, err := listenLibpq(ctx, dsn, channels)
	if err != nil {
		return hearer{}, err
	}
	return hearer{func(ctx context.Context, count, size int) (taken, _ int, _ error) {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for ; taken < count; taken++ {
			n := <-l.Notify
			if n == nil { // closed, or after a reconnect
				return taken, 0, errEnded
			}
			if len(n.Extra) != size {
				return taken, 0, errSize(n.Extra, size)
			}
		}
		return taken, 0, nil
	}, l.Close}, nil
}

// openPgx returns a connection of pgx that listens.
func openPgx(ctx context.Context, dsn string, channels []string) (*pgx.Conn, error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	for _, channel := range channels {
		if _, err := c.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return nil, errors.Join(err, closePgx(c))
		}
	}
	return c, nil
}

func closePgx(c *pgx.Conn) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	if c.IsClosed() {
		return nil
	}
	return c.Close(ctx)
}

// hearPgx is pgx's Conn.WaitForNotification.
func hearPgx(ctx context.Context, dsn string, channels []string, _ int) (hearer, error) {
	c, err := openPgx(ctx, dsn, channels)
	if err != nil {
		return hearer{}, err
	}
	return hearer{func(ctx context.Context, count, size int) (taken, _ int, _ error) {
		for ; taken < count; taken++ {
			n, err := c.WaitForNotification(ctx)
			if err != nil {
				return taken, 0, err
			}
			if len(n.Payload) != size {
				return taken, 0, errSize(n.Payload, size)
			}
		}
		return taken, 0, nil
	}, func() error { return closePgx(c) }}, nil
}

// hearPgxBare is the same with context.Background(), for which pgx does less: it
// cannot be cancelled.
func hearPgxBare(ctx context.Context, dsn string, channels []string, unit int) (hearer, error) {
	h, err := hearPgx(ctx, dsn, channels, unit)
	take := h.take
	h.take = func(_ context.Context, count, size int) (taken, dropped int, _ error) {
		return take(context.Background(), count, size)
	}
	return h, err
}

// hearPgxlisten is pgxlisten's Listener. It calls a handler, which tells when a
// unit has come.
func hearPgxlisten(ctx context.Context, dsn string, channels []string, unit int) (hearer, error) {
	units, ended := make(chan int, unitsAhead), make(chan error, 1)
	taken, bytes := 0, 0
	handle := func(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
		bytes += len(n.Payload)
		if taken++; taken == unit {
			units <- bytes
			taken, bytes = 0, 0
		}
		return nil
	}
	l := &pgxlisten.Listener{
		Connect:        func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, dsn) },
		ReconnectDelay: time.Minute,
	}
	for _, channel := range channels {
		l.Handle(channel, pgxlisten.HandlerFunc(handle))
	}
	ctx, stop := context.WithCancel(ctx)
	go func() { ended <- l.Listen(ctx) }() // ended by stop
	return hearer{func(ctx context.Context, count, size int) (int, int, error) {
		select {
		case bytes := <-units:
			if bytes != unit*size {
				return unit, 0, errors.New("payloads of another size")
			}
			return unit, 0, nil
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}, func() error {
		stop()
		<-ended
		return nil
	}}, nil
}

// hearBun is Listener.Receive of bun's pgdriver.
func hearBun(ctx context.Context, dsn string, channels []string, _ int) (hearer, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return hearer{}, err
	}
	db := bun.NewDB(sql.OpenDB(pgdriver.NewConnector(
		pgdriver.WithAddr(net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))),
		pgdriver.WithInsecure(true),
		pgdriver.WithUser(config.User),
		pgdriver.WithDatabase(config.Database),
	)), pgdialect.New())
	l := pgdriver.NewListener(db)
	close := func() error {
		if err := l.Close(); err != nil && !errors.Is(err, io.EOF) {
			return joinClose(err, db.Close)
		}
		return db.Close()
	}
	if err := l.Listen(ctx, channels...); err != nil {
		return hearer{}, joinClose(err, close)
	}
	return hearer{func(ctx context.Context, count, size int) (taken, _ int, _ error) {
		for ; taken < count; taken++ {
			_, text, err := l.Receive(ctx)
			if err != nil {
				return taken, 0, err
			}
			if len(text) != size {
				return taken, 0, errSize(text, size)
			}
		}
		return taken, 0, nil
	}, close}, nil
}
