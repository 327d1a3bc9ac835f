package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"golang.org/x/sys/unix"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultnet"
)

// What finds out that a network is silent. Which of them does depends on what is
// under way:
//
//   - keepalives probe a connection on which nothing is in flight, also while a
//     statement runs: they give it up after idle + count * interval;
//   - tcp_user_timeout bounds how long sent data may stay unacknowledged, during
//     which no keepalives are sent, and counts in place of keepalives_count.
//
// The defaults are not waited for here. Go's keepalives (15 s, 15 s, 9 probes)
// take 150 s, and Linux's own, which libpq leaves as they are, 2 hours and 11
// minutes. Data in flight is repeated 15 times (net.ipv4.tcp_retries2), which
// takes at least 924.6 s, and may take half an hour.
const (
	keepalives  = " keepalives_idle=1 keepalives_interval=1 keepalives_count=2"
	userTimeout = " tcp_user_timeout=2000"
)

// silenceLimit is well above what these take, 3 s, even on a busy machine, and below what
// any default would.
const silenceLimit = 60 * time.Second

// A bystander is a session during a fault.
type bystander struct {
	*session
	*marks
	mark string
}

// A moment is what a session does when the network falls silent.
type moment struct {
	// ready does what comes before, and returns what ends by the fault.
	ready func(t *testing.T, ctx context.Context, b *bystander) func() error

	idle     bool // no statement is under way
	active   bool // the session listens, so there is no passive one
	inFlight bool // begins after the fault: what is sent is not acknowledged
	large    bool // and is more than fits into the socket's buffer
}

var moments = map[string]moment{
	"idle": {ready: func(_ *testing.T, ctx context.Context, b *bystander) func() error {
		return func() error { return untilLost(ctx, b) }
	}, idle: true},
	"idle in a transaction": {ready: func(t *testing.T, ctx context.Context, b *bystander) func() error {
		tx := b.begin(t, ctx)
		return func() error {
			lost := untilLost(ctx, b)
			if err := tx.Commit(); !pgnotify.IsDisconnect(err) {
				return fmt.Errorf("COMMIT: %v", err)
			}
			return lost
		}
	}, idle: true},
	"listening": {ready: func(t *testing.T, ctx context.Context, b *bystander) func() error {
		if err := b.pc.Listen(ctx, b.mark); err != nil {
			t.Fatal(err)
		}
		notify(t, b.server, b.mark, "traffic")
		if _, err := b.pc.WaitForNotification(ctx); err != nil {
			t.Fatal(err)
		}
		return func() error {
			_, err := b.pc.WaitForNotification(ctx)
			return err
		}
	}, idle: true, active: true},
	"in a query": {ready: func(t *testing.T, ctx context.Context, b *bystander) func() error {
		done := async(t, func() error { return execError(b.ExecContext(ctx, "select pg_sleep(60)")) })
		untilWaiting(t, b.server, b.pc.PID(), "PgSleep")
		return func() error { return <-done }
	}},
	"streaming rows": {ready: streamRows},
	"request": {ready: func(_ *testing.T, ctx context.Context, b *bystander) func() error {
		return func() error { return execError(b.ExecContext(ctx, b.insert(b.mark))) }
	}, inFlight: true},
	"commit": {ready: func(t *testing.T, ctx context.Context, b *bystander) func() error {
		return b.begin(t, ctx).Commit
	}, inFlight: true},
	"large write": {ready: func(_ *testing.T, ctx context.Context, b *bystander) func() error {
		query := b.insert(b.mark + strings.Repeat("x", 16<<20))
		return func() error { return execError(b.ExecContext(ctx, query)) }
	}, inFlight: true, large: true},
}

func (b *bystander) insert(mark string) string {
	return "insert into " + b.table + " values (" + pq.QuoteLiteral(mark) + ")"
}

// begin leaves the mark in a transaction.
func (b *bystander) begin(t *testing.T, ctx context.Context) *sql.Tx {
	t.Helper()
	tx, err := b.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback() })
	mustExec(t, tx, b.insert(b.mark))
	return tx
}

func untilLost(ctx context.Context, b *bystander) error {
	select {
	case <-b.pc.Disconnected():
		return b.pc.DisconnectErr()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// streamRows reads rows that come without an end. database/sql gives only the
// context's error when that ends, but the session knows more.
func streamRows(t *testing.T, ctx context.Context, b *bystander) func() error {
	rows, err := b.QueryContext(ctx, "select repeat('x', 1000), pg_sleep(0.001) from generate_series(1, 100000)")
	if err != nil {
		t.Fatal(err)
	}
	streaming := make(chan struct{})
	done := async(t, func() error {
		defer rows.Close()
		for n := 1; rows.Next(); n++ {
			if n == 20 {
				close(streaming)
			}
		}
		return rows.Err()
	})
	recv(t, streaming)
	return func() error { return <-done }
}

// A crowd is sessions over one way to the server, one for each moment.
type crowd struct {
	*marks
	pools      []*sql.DB
	bystanders map[string]*bystander
	waits      map[string]func() error
}

func newCrowd(m *marks) *crowd {
	return &crowd{marks: m, bystanders: make(map[string]*bystander), waits: make(map[string]func() error)}
}

// add makes the sessions of the moments that are chosen, passive and active.
func (c *crowd) add(t *testing.T, ctx context.Context, way string, db *sql.DB, chosen func(moment) bool) {
	t.Helper()
	c.pools = append(c.pools, db)
	for name, m := range moments {
		for _, active := range []bool{false, true} {
			if chosen(m) && (active || !m.active) {
				name := fmt.Sprintf("%s/%s/active=%v", name, way, active)
				c.bystanders[name], c.waits[name] = c.join(t, ctx, db, m, active)
			}
		}
	}
}

// linked makes a crowd over a link, with and without TLS.
func linked(t *testing.T, ctx context.Context, settings string, chosen func(moment) bool) (*crowd, *faultnet.Link) {
	t.Helper()
	s := ours(t)
	c, link := newCrowd(newMarks(t)), faultnet.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
	for _, way := range modes(t)[:2] { // TCP and TLS
		db := open(t, way.dsn+settings, func(config *pgnotify.Config) { config.DialContext = link.DialContext })
		c.add(t, ctx, way.name, db, chosen)
	}
	return c, link
}

func (c *crowd) join(t *testing.T, ctx context.Context, db *sql.DB, m moment, active bool) (*bystander, func() error) {
	t.Helper()
	b := &bystander{session: take(t, db), marks: c.marks, mark: uniqueName("mark")}
	pid := b.pc.PID()
	t.Cleanup(func() { mustExec(t, c.server, "select pg_terminate_backend($1)", pid) })
	if active {
		b.pc.Activate()
	}
	wait := m.ready(t, ctx, b)
	until(t, "nothing is in flight", func() bool { return b.unacknowledged(t) == 0 })
	return b, wait
}

// unacknowledged returns how many segments are in flight. The answer to a request
// may be seen in other ways before its acknowledgement, which takes its time.
func (b *bystander) unacknowledged(t *testing.T) uint32 {
	t.Helper()
	raw, err := b.pc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return info.Unacked + info.Notsent_bytes
}

// momentOf returns the moment that a name of the crowd begins with.
func momentOf(name string) (string, moment) {
	name, _, _ = strings.Cut(name, "/")
	return name, moments[name]
}

// A lossTold is what a session made of a fault.
type lossTold struct {
	name  string
	err   error
	asked time.Time // when the last request began
	at    time.Time
}

// start goes on with the moments that are chosen, and sends what comes of them.
func (c *crowd) start(t *testing.T, told chan<- lossTold, chosen func(moment) bool) {
	for name, wait := range c.waits {
		if _, m := momentOf(name); chosen(m) {
			async(t, func() error {
				asked := time.Now()
				err := wait()
				told <- lossTold{name, err, asked, time.Now()}
				return nil
			})
		}
	}
}

// collect checks what comes of all moments: by check, that it came in time, and
// that no statement was executed.
func (c *crowd) collect(t *testing.T, told <-chan lossTold, began time.Time, check func(t *testing.T, e lossTold)) {
	t.Helper()
	times := make(map[string][2]time.Duration)
	for range c.waits {
		e := recv(t, told)
		took := e.at.Sub(began)
		t.Run(e.name, func(t *testing.T) {
			check(t, e)
			if took > silenceLimit {
				t.Errorf("it took %v", took)
			}
			if n := queryValue[int](t, c.server, "select count(*) from "+c.table+" where mark like $1", c.bystanders[e.name].mark+"%"); n != 0 {
				t.Errorf("%d marks", n)
			}
		})
		name, _ := momentOf(e.name)
		seen, more := times[name]
		if !more {
			seen[0] = took
		}
		times[name] = [2]time.Duration{min(seen[0], took), max(seen[1], took)}
	}
	for name, seen := range times {
		t.Logf("| %s | %s | %.1f to %.1f s |", t.Name(), name, seen[0].Seconds(), seen[1].Seconds())
	}
}

// works checks that the pools make do without the sessions that were lost.
func (c *crowd) works(t *testing.T) {
	t.Helper()
	for _, db := range c.pools {
		mustExec(t, db, "select 1")
	}
}

// wantSilence checks that a session was given up because nothing was heard.
func wantSilence(t *testing.T, e lossTold) {
	t.Helper()
	_, m := momentOf(e.name)
	lost, ok := asError[*pgnotify.DisconnectError](e.err)
	switch {
	case !ok:
		t.Errorf("got %v, want a DisconnectError", e.err)
	case m.inFlight && lost.Reason == pgnotify.NetworkTimeout && !lost.Sent && (m.large || lost.Time.Before(e.asked)):
		// On a busy machine the loss was known before anything was written.
	case lost.Reason != pgnotify.NetworkTimeout || lost.Sent == m.idle:
		t.Errorf("%v: reason %v, sent %v", e.err, lost.Reason, lost.Sent)
	case errors.Is(e.err, driver.ErrBadConn):
		t.Errorf("%v: database/sql would try it again", e.err)
	}
}

// D10: packets are lost on the way, or no route leads to the server any more; the
// sessions find out by keepalives, or by those and tcp_user_timeout, whatever they
// are doing, within the time that is set.
func TestSilentPartition(t *testing.T) {
	t.Parallel()
	acknowledged := func(m moment) bool { return !m.inFlight }
	for name, c := range map[string]struct {
		settings string
		chosen   func(moment) bool
		unplug   bool
	}{
		"packets lost, keepalives":             {keepalives, acknowledged, false},
		"packets lost, and tcp_user_timeout":   {keepalives + userTimeout, all, false},
		"interface down, keepalives":           {keepalives, acknowledged, true},
		"interface down, and tcp_user_timeout": {keepalives + userTimeout, all, true},
		"packets lost, tcp_user_timeout alone": {" keepalives=0" + userTimeout, func(m moment) bool { return m.inFlight }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			crowd, link := linked(t, patience(t), c.settings, c.chosen)
			told, began := make(chan lossTold, len(crowd.waits)), time.Now()
			if c.unplug {
				link.Unplug(t)
				crowd.start(t, told, all)
			} else {
				crowd.cut(t, link, told)
			}
			crowd.collect(t, told, began, wantSilence)
			if !c.unplug {
				link.Repair()
				crowd.works(t)
			}
		})
	}
}

func all(moment) bool { return true }

// patience is testContext for many sessions, which take a while to be made.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// cut cuts the link in the middle of the large writes, if there are any.
func (c *crowd) cut(t *testing.T, link *faultnet.Link, told chan<- lossTold) {
	t.Helper()
	large := func(m moment) bool { return m.large }
	for name := range c.waits {
		if _, m := momentOf(name); m.large {
			cut := link.CutAfter(256 << 10)
			c.start(t, told, large)
			recv(t, cut)
			break
		}
	}
	link.Cut()
	c.start(t, told, func(m moment) bool { return !m.large })
}

// D10, promise 3: a statement whose context ends while the network is silent
// returns within CancelTimeout. Only its session is lost.
func TestCancelDuringPartition(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(patience(t))
	defer cancel()
	crowd, link := linked(t, ctx, " cancel_timeout=1", func(m moment) bool { return !m.idle })
	told := make(chan lossTold, len(crowd.waits))
	crowd.cut(t, link, told)
	for name, b := range crowd.bystanders {
		until(t, name+" has begun", func() bool { return b.pc.TransactionStatus() == pgnotify.TransactionActive })
	}
	began := time.Now()
	cancel()
	crowd.collect(t, told, began, crowd.wantCanceled)
	link.Repair()
	crowd.works(t)
}

// wantCanceled checks that a statement has ended by its context, and its session
// by CancelTimeout.
func (c *crowd) wantCanceled(t *testing.T, e lossTold) {
	t.Helper()
	if !errors.Is(e.err, context.Canceled) {
		t.Errorf("%s: %v is not the context's error", e.name, e.err)
	}
	if moment, _ := momentOf(e.name); moment == "streaming rows" { // of which database/sql says no more
		e.err = c.bystanders[e.name].pc.DisconnectErr()
	}
	lost, ok := asError[*pgnotify.DisconnectError](e.err)
	if !ok || lost.Reason != pgnotify.CancelTimeout {
		t.Errorf("%s: %v is not lost by CancelTimeout", e.name, e.err)
	}
}
