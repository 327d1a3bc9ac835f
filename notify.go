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

// Limits of NOTIFY in bytes, for PostgreSQL's default compile-time settings:
// https://www.postgresql.org/docs/current/sql-notify.html.
const (
	MaxChannelName = 63
	MaxPayload     = 7999
)

// A Notification is what NOTIFY sent: the channel, the payload, which may be empty, and
// the process id of the sender's session.
type Notification struct {
	Channel string
	Payload string
	PID     uint32
}

// NotificationConn is a session that receives notifications. Every session of pgnotify
// is one:
//
//	err := conn.Raw(func(dc any) error {
//		return dc.(pgnotify.NotificationConn).Listen(ctx, "jobs")
//	})
//
// Raw holds the session's lock while the function runs, so do not wait for
// notifications inside it. Use a handle from [FromConn] for that.
//
// Once a session listens or waits, a goroutine of its own reads its socket.
// Notifications are kept until they are taken: at least 32,768 of them or 8 MiB of
// payload. Those beyond that are counted, and a *[GapError] in the sequence holds the
// count. A session that has listened is closed, not reused, when it is returned to the
// pool. pgnotify recognises LISTEN as a statement of its own; inside a function or a DO
// block, it notices when the first notification arrives.
type NotificationConn interface {
	// Listen subscribes the session to channels, in one round trip; inside a
	// transaction, from its commit on. Names are used as they are, including their
	// case. A name must have 1 to 63 bytes without NUL, or the error is
	// [ErrChannelName]. Listen waits for a statement that is running on the session,
	// and ends with ctx; while rows are open, it fails with [ErrBusy].
	Listen(ctx context.Context, channels ...string) error

	// Unlisten ends the subscription to channels, or to all if none is given; inside a
	// transaction, from its commit on. Notifications of these channels that have
	// arrived and were not taken are dropped. It waits as Listen does.
	Unlisten(ctx context.Context, channels ...string) error

	// AddNotificationHandler registers f to be called with each notification of the
	// session, until remove is called or the session is returned to the pool. The rules
	// of [NoticeConn] for handlers apply. Handlers and iterators do not compete: each
	// handler gets every notification, unless it falls 4 MiB behind. A statement waits
	// for the handlers of the notifications that its own session sent.
	AddNotificationHandler(f func(Notification)) (remove func())

	// WaitForNotification returns the next notification that has not been taken. It
	// blocks until there is one, ctx ends, or the session is lost or released; the
	// error is then ctx.Err(), a *[DisconnectError], [ErrReleased] or [ErrClosed]. A
	// *[GapError] says that notifications were dropped before the next one.
	WaitForNotification(ctx context.Context) (Notification, error)

	// Notifications returns an iterator over what WaitForNotification would return. The
	// iteration ends with an error, or without one by [Timeout] or [StopAfter]; after a
	// *[GapError] the loop may go on. Breaking out of the loop loses nothing: the next
	// call continues where this one stopped. The session remains usable for statements,
	// Listen and Unlisten, even in the loop's body. Each notification goes to only one
	// of several concurrent iterators.
	Notifications(ctx context.Context, opts ...IterOption) iter.Seq2[Notification, error]
}

// An IterOption limits an iteration of [NotificationConn].Notifications.
type IterOption func(*iterOptions)

type iterOptions struct {
	timeout time.Duration // negative: none
	limit   int           // negative: none
}

// Timeout ends the iteration without an error when d has passed since it began. With 0,
// or less, the iteration yields what has arrived and does not wait for more.
func Timeout(d time.Duration) IterOption {
	return func(o *iterOptions) { o.timeout = max(d, 0) }
}

// StopAfter ends the iteration without an error after n notifications.
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

// everyChannel stands for all channels in the list of those that UNLISTEN named.
const everyChannel = ""

// dropUnlistened discards received notifications of the channels that UNLISTEN named,
// once the transaction has ended, unless it was rolled back.
func (s *session) dropUnlistened() {
	left := s.op.unfinished.Load()
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

// maxNamed is the maximum number of channels named in an error.
const maxNamed = 8

// quoteAll lists channels for an error.
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

// run executes a statement of the handle itself. unlistened are the channels that an
// UNLISTEN in it names.
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
			ok, err = backlog.take(lease, &n) // the fast path, while notifications are there
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

// receiver returns the function that an iteration calls for its next notification. That
// function reports false when the timeout has passed, even if there are more.
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

// poll reads what has arrived, and returns a function that yields just that, and not
// what arrives later.
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

// receive returns the next notification. It blocks until there is one, or an error, or
// expired fires, in which case ok is false and err is nil.
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
			return c.take(ctx) // if the session was lost, what had come before
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

// take returns the next notification if there is one and neither ctx nor the lease has
// ended.
func (c *Conn) take(ctx context.Context) (n Notification, ok bool, err error) {
	if err = ctx.Err(); err != nil {
		return n, false, err
	}
	if ok, err = c.s.hear().backlog.take(c.leaseNow(), &n); !ok && err == nil {
		err = c.checkLease()
	}
	return n, ok, err
}

// leaseNow returns the lease with which the handle takes from the backlog.
func (c *Conn) leaseNow() uint64 {
	if c.lease != 0 {
		return c.lease
	}
	return c.s.lease.Load()
}

// checkChannel refuses names that PostgreSQL would refuse or truncate.
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

// An Execer executes a statement: a *[sql.DB], a *[sql.Conn] or a *[sql.Tx].
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Notify sends a notification: at once through a *sql.DB or an idle *sql.Conn, with the
// commit through a *sql.Tx. Name and payload are sent as they are. An invalid name is
// [ErrChannelName], a payload above [MaxPayload] bytes [ErrPayloadTooLong], and one with a
// NUL byte is an error too; no check asks the server. Within one transaction the server delivers equal notifications
// only once.
func Notify(ctx context.Context, db Execer, channel, payload string) error {
	if err := checkChannel(channel); err != nil {
		return err
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: %d bytes for channel %q, at most %d are possible", ErrPayloadTooLong, len(payload), channel, MaxPayload)
	}
	if hasNUL(payload) {
		return fmt.Errorf("pgnotify: notify %q: the payload has a NUL byte", channel)
	}
	if _, err := db.ExecContext(ctx, "SELECT pg_catalog.pg_notify($1, $2)", channel, payload); err != nil {
		return &opError{"notify " + strconv.Quote(channel), err}
	}
	return nil
}
