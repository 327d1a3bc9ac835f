package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// What a reconnect scenario records of each loss.
const (
	reconnectMillis = "reconnect" // until everything is listened to again
	requestCount    = "requests"  // Query messages of the new session
)

// reconnectRatioLabel is the label of how the times compare.
const reconnectRatioLabel = "times lib/pq's"

// requestsLabel is the label of how many requests it takes to listen again.
const requestsLabel = "requests of the new session"

// reconnectChannels is how many channels are listened to.
const reconnectChannels = 10_000

// reconnectScenarios are losses of a session that listens to thousands of
// channels: on the real server, and on a scripted one that counts what it is asked.
func reconnectScenarios() []scenario {
	return []scenario{
		reconnectScenario("reconnect", "a session that listens to many channels is terminated, until its successor listens to all",
			terminator),
		reconnectScenario("reconnect/scripted", "the same with a server for which LISTEN is no work", scriptedLosses,
			metric{label: requestsLabel, quantity: requestCount, summary: medianOf}),
	}
}

func reconnectScenario(name, about string, losses func(context.Context, string) (*lossMaker, error), more ...metric) scenario {
	s := scenario{
		name:   name,
		about:  about,
		unit:   "channels",
		count:  reconnectChannels,
		quick:  500,
		rounds: 5,
		metrics: append([]metric{
			{label: "loss to listening again, ms", quantity: reconnectMillis, summary: medianOf},
			{label: reconnectRatioLabel, quantity: reconnectMillis, summary: medianOf, base: []string{libpqListenerName}, relate: ratio},
		}, more...),
	}
	for _, c := range []struct {
		name string
		open func(ctx context.Context, dsn string, channels []string) (*returner, error)
	}{
		{listenerName, returnListener},
		{libpqListenerName, returnLibpq},
		{pgxlistenName, returnPgxlisten},
	} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			m, err := losses(ctx, dsn)
			if err != nil {
				return nil, err
			}
			w := &reconnecting{losses: m, open: c.open}
			return &worker{w.round, w.close}, nil
		}})
	}
	return s
}

// A returner is a listener that comes back after a loss.
type returner struct {
	back  <-chan error // has a value when everything is listened to again
	close func() error
}

// A lossMaker ends the session of a returner.
type lossMaker struct {
	dsn      string
	lose     func(ctx context.Context) error
	requests func() (int, error) // of the new session; nil where nobody counts them
	close    func() error
}

// reconnecting is a returner with what it needs. It is opened with the first round,
// which tells how many channels there are.
type reconnecting struct {
	losses *lossMaker
	open   func(ctx context.Context, dsn string, channels []string) (*returner, error)
	since  time.Time // when the session began, at the latest
	*returner
}

func (w *reconnecting) close() error {
	if w.returner == nil {
		return w.losses.close()
	}
	return joinClose(w.returner.close(), w.losses.close)
}

func (w *reconnecting) round(ctx context.Context, count int, r record) (err error) {
	if w.returner == nil {
		w.returner, err = w.open(ctx, w.losses.dsn, channelNames("reconnect", count))
		if err != nil {
			return err
		}
		w.since = time.Now()
	}
	select {
	case <-time.After(time.Until(w.since.Add(sessionAge))):
	case <-ctx.Done():
		return ctx.Err()
	}
	start := time.Now()
	if err := w.losses.lose(ctx); err != nil {
		return err
	}
	select {
	case err = <-w.back:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(time.Minute):
		err = errors.New("nothing is heard of a new session")
	}
	if err != nil {
		return err
	}
	w.since = time.Now()
	r.add(reconnectMillis, millis(w.since.Sub(start)))
	if w.losses.requests == nil {
		return nil
	}
	n, err := w.losses.requests()
	r.add(requestCount, float64(n))
	return err
}

// sessionAge is how old a session is, at the least, when it is ended. Where it has
// only just begun, pgnotify waits before it tries again.
const sessionAge = 1100 * time.Millisecond

// terminator ends the sessions of a real server that have its mark.
func terminator(ctx context.Context, dsn string) (*lossMaker, error) {
	eye, err := sqlDriver{registered: "postgres"}.open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	mark, err := newMark(ctx, eye)
	if err != nil {
		return nil, joinClose(err, eye.Close)
	}
	return &lossMaker{
		dsn: withName(dsn, mark),
		lose: func(ctx context.Context) error {
			var ended int
			err := eye.QueryRowContext(ctx, `select count(pg_terminate_backend(pid))
				from pg_stat_activity where application_name = $1`, mark).Scan(&ended)
			if err == nil && ended != 1 {
				err = fmt.Errorf("%d sessions were terminated, not one", ended)
			}
			return err
		},
		close: eye.Close,
	}, nil
}

// newMark returns an application_name that no other session has.
func newMark(ctx context.Context, db *sql.DB) (mark string, err error) {
	err = db.QueryRowContext(ctx, "select 'bench ' || pg_backend_pid()").Scan(&mark)
	return mark, err
}

// withName returns the DSN, which may be a URL, with an application_name.
func withName(dsn, name string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		query := u.Query()
		query.Set("application_name", name)
		u.RawQuery = query.Encode()
		return u.String()
	}
	return dsn + " application_name='" + name + "'"
}

// scriptedLosses are of a server that counts requests.
func scriptedLosses(ctx context.Context, _ string) (*lossMaker, error) {
	c, err := startCrier(ctx)
	if err != nil {
		return nil, err
	}
	return &lossMaker{
		dsn:      c.dsn,
		lose:     func(context.Context) error { return c.hangUp() },
		requests: c.queries,
		close:    c.close,
	}, nil
}

// returnListener is pgnotify's Listener. The gap in the stream of a subscription
// says that everything is listened to again.
func returnListener(ctx context.Context, dsn string, channels []string) (*returner, error) {
	l, err := openListener(dsn)
	if err != nil {
		return nil, err
	}
	sub, err := l.Subscribe(ctx, channels...)
	if err != nil {
		return nil, joinClose(err, l.Close)
	}
	back := make(chan error, 1)
	go func() { // ends with the subscription
		for e := range sub.Events() {
			if e.Gap != nil && e.Gap.Cause == pgnotify.GapReconnect {
				back <- nil
			}
		}
	}()
	return &returner{back, l.Close}, nil
}

// returnLibpq is lib/pq's Listener, which sends nil when it has reconnected.
func returnLibpq(ctx context.Context, dsn string, channels []string) (*returner, error) {
	l, err := listenLibpq(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	back := make(chan error, 1)
	go func() { // ends with the listener
		for n := range l.Notify {
			if n == (*pq.Notification)(nil) {
				back <- nil
			}
		}
	}()
	return &returner{back, l.Close}, nil
}

// returnPgxlisten is pgxlisten's Listener, with no wait before it reconnects. It
// asks for the backlog of each channel after LISTEN.
func returnPgxlisten(ctx context.Context, dsn string, channels []string) (*returner, error) {
	back, ended := make(chan error, 1), make(chan error, 1)
	counter := &backlogCounter{all: len(channels), back: back}
	l := &pgxlisten.Listener{
		Connect:        func(ctx context.Context) (*pgx.Conn, error) { counter.done = 0; return pgx.Connect(ctx, dsn) },
		ReconnectDelay: -1,
	}
	for _, channel := range channels {
		l.Handle(channel, counter)
	}
	ctx, stop := context.WithCancel(ctx)
	go func() { ended <- l.Listen(ctx) }() // ended by stop
	r := &returner{back, func() error {
		stop()
		<-ended
		return nil
	}}
	select {
	case <-back:
		return r, nil
	case <-ctx.Done():
		return nil, joinClose(ctx.Err(), r.close)
	}
}

// A backlogCounter tells when the last channel is listened to.
type backlogCounter struct {
	done, all int
	back      chan<- error
}

var _ pgxlisten.BacklogHandler = (*backlogCounter)(nil)

func (c *backlogCounter) HandleBacklog(context.Context, string, *pgx.Conn) error {
	if c.done++; c.done == c.all {
		c.back <- nil
	}
	return nil
}

func (c *backlogCounter) HandleNotification(context.Context, *pgconn.Notification, *pgx.Conn) error {
	return nil
}
