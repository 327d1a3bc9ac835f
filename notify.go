package pgnotify

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Limits of NOTIFY with PostgreSQL's default compile-time settings, in bytes:
// https://www.postgresql.org/docs/current/sql-notify.html.
const (
	MaxChannelName = 63
	MaxPayload     = 7999
)

// A Notification is what NOTIFY sent: the channel, the payload, which may be
// empty, and the process id of the sender's session.
type Notification struct {
	Channel string
	Payload string
	PID     uint32
}

// NotificationConn is a session that hears notifications. All of pgnotify's do:
//
//	err := conn.Raw(func(dc any) error {
//		return dc.(pgnotify.NotificationConn).Listen(ctx, "jobs")
//	})
//
// Raw holds the session's lock for as long as the function runs: do not wait for
// notifications within it. Take a handle with [FromConn] for that.
//
// A session that listens, or waits, has its socket read by a goroutine of its
// own from then on. What arrives is kept until it is taken: at least 32,768
// notifications or 8 MiB of payload. What comes beyond is counted, and the
// count stands in the sequence as a *[GapError]. A session that has listened is
// closed, and not reused, when it is returned to the pool. LISTEN is noticed as a
// statement of its own, and, within a function or a DO block, when the first
// notification comes.
type NotificationConn interface {
	// Listen subscribes the session to channels, in one round trip; within a
	// transaction, from its commit on. Names are taken as they are, case and all;
	// they have 1 to 63 bytes without NUL, or the error is [ErrChannelName]. It
	// waits for a statement that is running on the session, and ends with ctx.
	Listen(ctx context.Context, channels ...string) error

	// Unlisten ends the subscription to channels, or to all when none is given;
	// within a transaction, from its commit on. What was received of them and not
	// taken is dropped.
	Unlisten(ctx context.Context, channels ...string) error

	// AddNotificationHandler has f called with each notification of the session,
	// until remove is called or the session is returned to the pool. What
	// [NoticeConn] says of handlers holds here too. Handlers and iterators do not
	// compete: each handler gets every notification, unless it falls 4 MiB behind.
	// A statement waits for the handlers of what its own session sent.
	AddNotificationHandler(f func(Notification)) (remove func())

	// WaitForNotification returns the next notification that has not been taken.
	// It blocks until there is one, ctx ends, or the session is lost or
	// released, and then returns ctx.Err(), a *[DisconnectError], [ErrReleased]
	// or [ErrClosed]. A *[GapError] says that some were dropped before the next.
	WaitForNotification(ctx context.Context) (Notification, error)

	// Notifications iterates over what WaitForNotification would return. The
	// iteration ends with an error, or quietly by [Timeout] or [StopAfter]; after
	// a *[GapError] it goes on if the loop does. Breaking out of the loop loses
	// nothing: the next call goes on where this one was. The session stays usable
	// for statements, Listen and Unlisten, in the loop's body too. Each
	// notification is given to one of the iterators that run at a time.
	Notifications(ctx context.Context, opts ...IterOption) iter.Seq2[Notification, error]
}

// An IterOption limits an iteration over notifications.
type IterOption func(*iterOptions)

type iterOptions struct {
	timeout time.Duration // negative: none
	limit   int           // negative: none
}

// Timeout ends the iteration quietly when d has passed since it began. With 0
// the iteration gives what has arrived and does not wait for more.
func Timeout(d time.Duration) IterOption {
	return func(o *iterOptions) { o.timeout = max(d, 0) }
}

// StopAfter ends the iteration quietly after n notifications.
func StopAfter(n int) IterOption {
	return func(o *iterOptions) { o.limit = max(n, 0) }
}

// Listen implements [NotificationConn].
func (c *Conn) Listen(ctx context.Context, channels ...string) error {
	if len(channels) == 0 {
		return c.checkLease()
	}
	var sql strings.Builder
	for _, name := range channels {
		if err := checkChannel(name); err != nil {
			return err
		}
		sql.WriteString("LISTEN " + pq.QuoteIdentifier(name) + ";")
	}
	if err := c.run(ctx, sql.String()); err != nil {
		return &opError{"listen " + quoteAll(channels), err}
	}
	c.s.activate()
	return nil
}

// Unlisten implements [NotificationConn].
func (c *Conn) Unlisten(ctx context.Context, channels ...string) error {
	var sql strings.Builder
	for _, name := range channels {
		if err := checkChannel(name); err != nil {
			return err
		}
		sql.WriteString("UNLISTEN " + pq.QuoteIdentifier(name) + ";")
	}
	what := quoteAll(channels)
	if len(channels) == 0 {
		sql.WriteString("UNLISTEN *")
		channels, what = []string{everyChannel}, "*"
	}
	if err := c.run(ctx, sql.String(), channels...); err != nil {
		return &opError{"unlisten " + what, err}
	}
	return nil
}

// everyChannel stands for all channels in a list of those that UNLISTEN named.
const everyChannel = ""

// dropUnlistened forgets what was received of the channels that UNLISTEN named,
// when the transaction has ended, unless it was rolled back.
func (s *session) dropUnlistened() {
	left := s.op.unfinished
	if left == nil || len(left.unlistened) == 0 || s.wire.Status() != 'I' {
		return
	}
	channels := left.unlistened
	left.unlistened = nil
	h := s.hearing.Load()
	switch {
	case h == nil || s.wire.Undone():
	case slices.Contains(channels, everyChannel):
		h.backlog.reset(s.lease.Load())
	default:
		h.backlog.drop(channels)
	}
}

// maxNamed is how many channels an error names.
const maxNamed = 8

// quoteAll names channels in an error.
func quoteAll(channels []string) string {
	named := channels[:min(len(channels), maxNamed)]
	quoted := make([]string, len(named))
	for i, name := range named {
		quoted[i] = strconv.Quote(name)
	}
	text := strings.Join(quoted, ", ")
	if more := len(channels) - len(named); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// run sends a statement of the handle's own, which names channels in UNLISTEN.
func (c *Conn) run(ctx context.Context, sql string, unlistened ...string) (err error) {
	if err := c.s.beginLeased(ctx, c.lease); err != nil {
		return err
	}
	defer c.s.end(&err)
	if _, err = c.s.pq.ExecContext(background, sql, nil); err == nil {
		left := c.s.op.leave()
		left.unlistened = append(left.unlistened, unlistened...)
	}
	return err
}

// AddNotificationHandler implements [NotificationConn].
func (c *Conn) AddNotificationHandler(f func(Notification)) (remove func()) {
	return addHandler(c, func(h *hearing) *handlers[func(Notification)] { return &h.notifications }, f)
}

// WaitForNotification implements [NotificationConn].
func (c *Conn) WaitForNotification(ctx context.Context) (Notification, error) {
	if err := ctx.Err(); err != nil {
		return Notification{}, err
	}
	n, _, err := c.receive(ctx, nil)
	return n, err
}

// Notifications implements [NotificationConn].
func (c *Conn) Notifications(ctx context.Context, opts ...IterOption) iter.Seq2[Notification, error] {
	o := iterOptions{timeout: -1, limit: -1}
	for _, opt := range opts {
		opt(&o)
	}
	return func(yield func(Notification, error) bool) { c.iterate(ctx, o, yield) }
}

func (c *Conn) iterate(ctx context.Context, o iterOptions, yield func(Notification, error) bool) {
	next, stop := c.receiver(ctx, o.timeout)
	defer stop()
	lease, backlog := c.leaseNow(), &c.s.hear().backlog
	for o.limit != 0 {
		var n Notification
		ok, err := false, ctx.Err()
		if o.timeout < 0 && err == nil {
			ok, err = backlog.take(lease, &n) // the shortest way, while there is something
		}
		if !ok && err == nil {
			n, ok, err = next()
		}
		if !ok && err == nil || !yield(n, err) {
			return
		}
		if ok {
			o.limit--
		} else if _, gap := err.(*GapError); !gap {
			return
		}
	}
}

// receiver returns what an iteration takes its notifications from: receive,
// which reports false when the timeout has passed, also where more is there.
func (c *Conn) receiver(ctx context.Context, timeout time.Duration) (next func() (Notification, bool, error), stop func()) {
	switch {
	case timeout < 0:
		return func() (Notification, bool, error) { return c.receive(ctx, nil) }, func() {}
	case timeout == 0:
		return c.poll(ctx), func() {}
	}
	timer := time.NewTimer(timeout)
	return func() (n Notification, ok bool, err error) {
		select {
		case <-timer.C:
			return n, false, nil
		default:
			return c.receive(ctx, timer.C)
		}
	}, func() { timer.Stop() }
}

// poll reads what has arrived and returns a function that gives that, and not
// what comes meanwhile.
func (c *Conn) poll(ctx context.Context) func() (Notification, bool, error) {
	arrived := 0
	if c.checkLease() == nil {
		c.s.activate()
		c.s.wire.Poll(ctx)
		arrived = c.s.hear().backlog.pending()
	}
	return func() (n Notification, ok bool, err error) {
		loss := c.s.wire.Loss()
		if arrived == 0 && loss == nil {
			return n, false, c.checkLease()
		}
		arrived--
		if n, ok, err = c.take(ctx); !ok && err == nil && loss != nil {
			err = newDisconnectError(loss)
		}
		return n, ok, err
	}
}

// receive returns the next notification. It waits until there is one, or an
// error, or the time has expired: then ok is false and err is nil.
func (c *Conn) receive(ctx context.Context, expired <-chan time.Time) (n Notification, ok bool, err error) {
	if n, ok, err = c.take(ctx); ok || err != nil {
		return n, ok, err
	}
	c.s.activate()
	over, backlog := c.s.leaseOver(c.lease), &c.s.hear().backlog
	for {
		select {
		case <-backlog.wake:
		case <-expired:
			return n, false, nil
		case <-ctx.Done():
			return n, false, ctx.Err()
		case <-over:
			return n, false, c.checkLease()
		case <-c.s.wire.Lost():
			if n, ok, err = c.take(ctx); !ok && err == nil {
				err = newDisconnectError(c.s.wire.Loss())
			}
			return n, ok, err
		}
		if n, ok, err = c.take(ctx); ok || err != nil {
			backlog.more()
			return n, ok, err
		}
	}
}

// take returns the next notification if there is one, and neither ctx nor the
// lease has ended.
func (c *Conn) take(ctx context.Context) (n Notification, ok bool, err error) {
	if err = ctx.Err(); err != nil {
		return n, false, err
	}
	if ok, err = c.s.hear().backlog.take(c.leaseNow(), &n); !ok && err == nil {
		err = c.checkLease()
	}
	return n, ok, err
}

// leaseNow returns the handle's lease, with which it takes from the backlog.
func (c *Conn) leaseNow() uint64 {
	if c.lease != 0 {
		return c.lease
	}
	return c.s.lease.Load()
}

// checkChannel reports names that PostgreSQL would refuse or cut.
func checkChannel(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrChannelName)
	case len(name) > MaxChannelName:
		return fmt.Errorf("%w: %.80q has %d bytes, at most %d are possible", ErrChannelName, name, len(name), MaxChannelName)
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("%w: %.80q has a NUL byte", ErrChannelName, name)
	}
	return nil
}

// An Execer runs a statement: a *[sql.DB], a *[sql.Conn] or a *[sql.Tx].
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Notify sends a notification: at once through a *sql.DB or an idle *sql.Conn,
// with the commit through a *sql.Tx. Name and payload are taken as they are. An
// invalid name is [ErrChannelName], a payload above [MaxPayload] bytes
// [ErrPayloadTooLong], both without asking the server. Within one transaction
// the server delivers equal notifications once.
func Notify(ctx context.Context, db Execer, channel, payload string) error {
	if err := checkChannel(channel); err != nil {
		return err
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: %d bytes for channel %q, at most %d are possible", ErrPayloadTooLong, len(payload), channel, MaxPayload)
	}
	if _, err := db.ExecContext(ctx, "SELECT pg_catalog.pg_notify($1, $2)", channel, payload); err != nil {
		return &opError{"notify " + strconv.Quote(channel), err}
	}
	return nil
}
