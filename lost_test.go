package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
)

// behindProxy returns a proxy in front of the server of a mode, and the option
// that leads there.
func behindProxy(t *testing.T, m mode) (*faultproxy.Proxy, func(*pgnotify.Config)) {
	t.Helper()
	config, err := pgnotify.ParseConfig(m.dsn)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(int(config.Port))
	if strings.HasPrefix(config.Host, "/") {
		p := faultproxy.Start(t, "unix", filepath.Join(config.Host, ".s.PGSQL."+port))
		return p, func(c *pgnotify.Config) { c.Host, c.Port, c.Multi = p.Host(), uint16(p.Port()), nil }
	}
	host := config.Host
	if config.Hostaddr.IsValid() {
		host = config.Hostaddr.String()
	}
	p := faultproxy.Start(t, "tcp", net.JoinHostPort(host, port))
	return p, func(c *pgnotify.Config) {
		c.Hostaddr, c.Port, c.Multi = netip.MustParseAddr(p.Host()), uint16(p.Port()), nil
	}
}

// marks is a table that shows what was executed: the server's memory of a test.
type marks struct {
	server *sql.DB // not over a proxy
	table  string
}

func newMarks(t *testing.T) *marks {
	t.Helper()
	m := &marks{server: open(t, dsn(t)), table: uniqueName("marks")}
	mustExec(t, m.server, "create table "+m.table+" (mark text)")
	t.Cleanup(func() { mustExec(t, m.server, "drop table "+m.table) })
	return m
}

// A rig is a pool of one session over a proxy that can break it.
type rig struct {
	*marks
	db       *sql.DB
	proxy    *faultproxy.Proxy
	active   bool   // the sessions
	mark     string // the present one, in the table
	sessions int    // of the proxy, and
	broken   int    // its faults, when the present session was made
}

func (m *marks) rig(t *testing.T, way mode, active bool, options ...func(*pgnotify.Config)) *rig {
	t.Helper()
	proxy, option := behindProxy(t, way)
	r := &rig{marks: m, db: open(t, way.dsn, append(options, option)...), proxy: proxy, active: active}
	r.db.SetMaxOpenConns(1)
	return r
}

// fresh has the pool make a session, where it has none that works, and chooses a
// mark.
func (r *rig) fresh(t *testing.T) {
	t.Helper()
	r.mark = uniqueName("mark")
	conn, err := r.db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	if r.active {
		pc.Activate()
	}
	mustExec(t, conn, "select 1")
	r.sessions, r.broken = r.proxy.Sessions(), r.proxy.Broken()
}

// more returns how many sessions were made since the present one.
func (r *rig) more() int { return r.proxy.Sessions() - r.sessions }

// eachRig runs a test over each way to the server, with a passive and with an
// active session, in parallel.
func eachRig(t *testing.T, f func(t *testing.T, newRig func(options ...func(*pgnotify.Config)) *rig)) {
	t.Helper()
	t.Parallel()
	m := newMarks(t)
	for _, way := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", way.name, active), func(t *testing.T) {
				t.Parallel()
				f(t, func(options ...func(*pgnotify.Config)) *rig { return m.rig(t, way, active, options...) })
			})
		}
	}
}

// insert is a statement that leaves one mark, insertArg one that takes it as an
// argument.
func (r *rig) insert() string { return "insert into " + r.table + " values ('" + r.mark + "')" }

func (r *rig) insertArg() string { return "insert into " + r.table + " values ($1)" }

// count returns how often the mark was left.
func (r *rig) count(t *testing.T) int {
	t.Helper()
	return queryValue[int](t, r.server, "select count(*) from "+r.table+" where mark = $1", r.mark)
}

// wantReason checks the error of a request that was sent and then lost.
func wantReason(t *testing.T, err error, reason pgnotify.DisconnectReason) {
	t.Helper()
	lost, ok := asError[*pgnotify.DisconnectError](err)
	switch {
	case !ok:
		t.Errorf("got %v, want a DisconnectError", err)
	case lost.Reason != reason || !lost.Sent || !pgnotify.IsDisconnect(err):
		t.Errorf("%v: reason %v, sent %v; want %v", err, lost.Reason, lost.Sent, reason)
	case errors.Is(err, driver.ErrBadConn):
		t.Errorf("%v: database/sql would try it again", err)
	}
}

// wantLost checks the error of a request whose answer was lost, and that nothing
// was tried again.
func (r *rig) wantLost(t *testing.T, err error, reason pgnotify.DisconnectReason) {
	t.Helper()
	wantReason(t, err, reason)
	if broken := r.proxy.Broken() - r.broken; r.more() != 0 || broken != 1 {
		t.Errorf("%d more sessions, %d faults", r.more(), broken)
	}
}

// A request is something to be asked of a server, in three parts.
type request struct {
	// ready does what comes before, and returns the request and what comes after.
	ready func(t *testing.T, ctx context.Context, r *rig) (ask func() error, after func())
	skip  int // answers that come before the one that counts
	marks int // that are left when only the last answer is lost
}

func nothing() {}

// simply makes a request that needs nothing before and after.
func simply(ask func(ctx context.Context, r *rig) error) func(*testing.T, context.Context, *rig) (func() error, func()) {
	return func(_ *testing.T, ctx context.Context, r *rig) (func() error, func()) {
		return func() error { return ask(ctx, r) }, nothing
	}
}

// onConn makes a request of a session that was taken from the pool.
func onConn(ask func(ctx context.Context, r *rig, s *session) error) func(*testing.T, context.Context, *rig) (func() error, func()) {
	return func(t *testing.T, ctx context.Context, r *rig) (func() error, func()) {
		s := take(t, r.db)
		return func() error { return ask(ctx, r, s) }, func() {
			if err := s.Close(); err != nil {
				t.Errorf("closing the connection: %v", err)
			}
		}
	}
}

// inTx makes a request within a transaction, which is ended after it; ending it
// must not block, and cannot succeed.
func inTx(ask func(ctx context.Context, r *rig, tx *sql.Tx) error, end func(*sql.Tx) error) func(*testing.T, context.Context, *rig) (func() error, func()) {
	return func(t *testing.T, ctx context.Context, r *rig) (func() error, func()) {
		tx := mustBegin(t, r.db)
		return func() error { return ask(ctx, r, tx) }, func() {
			err := end(tx)
			if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || lost.Sent || errors.Is(err, driver.ErrBadConn) {
				t.Errorf("the end of the transaction: %v", err)
			}
		}
	}
}

// prepared makes a request of a prepared statement.
func prepared(query string, ask func(ctx context.Context, st *sql.Stmt, mark string) error) func(*testing.T, context.Context, *rig) (func() error, func()) {
	return func(t *testing.T, ctx context.Context, r *rig) (func() error, func()) {
		st, err := r.db.PrepareContext(ctx, r.insertArg()+query)
		if err != nil {
			t.Fatal(err)
		}
		return func() error { return ask(ctx, st, r.mark) }, func() {
			if err := st.Close(); err != nil {
				t.Errorf("closing the statement: %v", err)
			}
		}
	}
}

// scan reads the only row of a query.
func scan(row *sql.Row) error {
	var mark string
	return row.Scan(&mark)
}

// readRows reads all rows of a query.
func readRows(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

func execError(_ sql.Result, err error) error { return err }

const returning = " returning mark"

// requests are all kinds that database/sql and pgnotify make.
var requests = map[string]request{
	"exec": {simply(func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insert()))
	}), 0, 1},
	"exec of two": {simply(func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insert()+"; "+r.insert()))
	}), 0, 2},
	"exec with arguments": {simply(func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insertArg(), r.mark))
	}), 1, 1},
	"exec with arguments, first part": {simply(func(ctx context.Context, r *rig) error {
		return execError(r.db.ExecContext(ctx, r.insertArg(), r.mark))
	}), 0, 0},
	"query row": {simply(func(ctx context.Context, r *rig) error {
		return scan(r.db.QueryRowContext(ctx, r.insert()+returning))
	}), 0, 1},
	"query row with arguments": {simply(func(ctx context.Context, r *rig) error {
		return scan(r.db.QueryRowContext(ctx, r.insertArg()+returning, r.mark))
	}), 1, 1},
	"query": {simply(func(ctx context.Context, r *rig) error {
		return readRows(r.db.QueryContext(ctx, r.insert()+returning))
	}), 0, 1},
	"query with arguments": {simply(func(ctx context.Context, r *rig) error {
		return readRows(r.db.QueryContext(ctx, r.insertArg()+returning, r.mark))
	}), 1, 1},
	"prepare": {simply(func(ctx context.Context, r *rig) error {
		st, err := r.db.PrepareContext(ctx, r.insertArg())
		if err != nil {
			return err
		}
		return st.Close()
	}), 0, 0},
	"ping": {simply(func(ctx context.Context, r *rig) error { return r.db.PingContext(ctx) }), 0, 0},
	"begin": {simply(func(ctx context.Context, r *rig) error {
		tx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		return tx.Rollback()
	}), 0, 0},
	"prepared exec": {prepared("", func(ctx context.Context, st *sql.Stmt, mark string) error {
		return execError(st.ExecContext(ctx, mark))
	}), 0, 1},
	"prepared query": {prepared(returning, func(ctx context.Context, st *sql.Stmt, mark string) error {
		return scan(st.QueryRowContext(ctx, mark))
	}), 0, 1},
	"exec on a connection": {onConn(func(ctx context.Context, r *rig, s *session) error {
		return execError(s.ExecContext(ctx, r.insert()))
	}), 0, 1},
	"query on a connection": {onConn(func(ctx context.Context, r *rig, s *session) error {
		return readRows(s.QueryContext(ctx, r.insertArg()+returning, r.mark))
	}), 1, 1},
	"begin on a connection": {onConn(func(ctx context.Context, _ *rig, s *session) error {
		_, err := s.BeginTx(ctx, nil)
		return err
	}), 0, 0},
	"exec by Raw": {onConn(func(ctx context.Context, r *rig, s *session) error {
		return s.Raw(func(dc any) error {
			_, err := dc.(driver.ExecerContext).ExecContext(ctx, r.insert(), nil)
			return err
		})
	}), 0, 1},
	"listen": {onConn(func(ctx context.Context, r *rig, s *session) error {
		return s.pc.Listen(ctx, r.mark)
	}), 0, 0},
	"exec in a transaction": {inTx(func(ctx context.Context, r *rig, tx *sql.Tx) error {
		return execError(tx.ExecContext(ctx, r.insert()))
	}, (*sql.Tx).Rollback), 0, 0},
	"query in a transaction": {inTx(func(ctx context.Context, r *rig, tx *sql.Tx) error {
		return scan(tx.QueryRowContext(ctx, r.insertArg()+returning, r.mark))
	}, (*sql.Tx).Commit), 1, 0},
	"commit":   {ending((*sql.Tx).Commit), 0, 1},
	"rollback": {ending((*sql.Tx).Rollback), 0, 0},
	"copy": {inTx(func(ctx context.Context, r *rig, tx *sql.Tx) error {
		_, err := tx.PrepareContext(ctx, "copy "+r.table+" from stdin")
		return err
	}, (*sql.Tx).Rollback), 0, 0},
	"end of copy": {inTx(copyMark, (*sql.Tx).Commit), 1, 0},
}

// ending makes the end of a transaction a request.
func ending(end func(*sql.Tx) error) func(*testing.T, context.Context, *rig) (func() error, func()) {
	return func(t *testing.T, _ context.Context, r *rig) (func() error, func()) {
		tx := mustBegin(t, r.db)
		mustExec(t, tx, r.insert())
		return func() error { return end(tx) }, nothing
	}
}

// copyMark leaves the mark by COPY.
func copyMark(ctx context.Context, r *rig, tx *sql.Tx) error {
	st, err := tx.PrepareContext(ctx, "copy "+r.table+" from stdin")
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := st.ExecContext(ctx, r.mark); err != nil {
		return err
	}
	return execError(st.ExecContext(ctx))
}

// run makes a request, breaks it, and checks what database/sql made of it.
func (q request) run(t *testing.T, r *rig, fault faultproxy.Fault, marks int) {
	t.Helper()
	r.fresh(t)
	ask, after := q.ready(t, testContext(t), r)
	fault.Skip = q.skip
	r.proxy.Break(fault)
	reason := pgnotify.PeerClosed
	if fault.Reset {
		reason = pgnotify.Reset
	}
	r.wantLost(t, ask(), reason)
	after()
	if n := r.count(t); n != marks {
		t.Errorf("%d marks, want %d", n, marks)
	}
}

// eachRequest breaks each kind of request, one after the other.
func eachRequest(t *testing.T, f func(t *testing.T, r *rig, q request)) {
	eachRig(t, func(t *testing.T, newRig func(...func(*pgnotify.Config)) *rig) {
		r := newRig()
		for name, q := range requests {
			t.Run(name, func(t *testing.T) { f(t, r, q) })
		}
		r.fresh(t)
	})
}

// D13, promise 1: the statement was executed and its answer is lost, by FIN, by
// RST, and truncated in the middle of a message.
func TestLostAnswer(t *testing.T) {
	for name, fault := range map[string]faultproxy.Fault{
		"end":                 {},
		"reset":               {Reset: true},
		"end in a header":     {Keep: 3},
		"reset in a message":  {Keep: 9, Reset: true},
		"end in the last one": {Keep: -1},
	} {
		t.Run(name, func(t *testing.T) {
			eachRequest(t, func(t *testing.T, r *rig, q request) { q.run(t, r, fault, q.marks) })
		})
	}
}

// Promise 1: whether a statement has reached the server cannot be known; one that
// has not is not tried again either.
func TestLostRequest(t *testing.T) {
	eachRequest(t, func(t *testing.T, r *rig, q request) {
		q.run(t, r, faultproxy.Fault{Unsent: true}, 0)
	})
}
