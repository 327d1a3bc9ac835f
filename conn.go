package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// A Conn is a session with PostgreSQL: lib/pq's driver connection with pgnotify's
// promises. [sql.Conn.Raw] passes it, and [FromConn] and [Unwrap] return it.
//
// The methods of the interfaces of database/sql/driver are for database/sql, one call
// at a time. All others, those of [NoticeConn], [NotificationConn], [DisconnectConn],
// [CancelConn] and [SessionConn], are safe for concurrent use. Once the session is lost,
// those that return an error return a *[DisconnectError], and once the [sql.Conn] is
// closed, [ErrReleased], or [ErrClosed] if the session itself was closed first.
type Conn struct {
	s     *session
	lease uint64 // 0: the lease of whoever has the session
}

// checkLease returns why the handle no longer works, or nil if it does.
func (c *Conn) checkLease() error { return c.s.checkLease(c.lease) }

// ExecContext implements [driver.ExecerContext]. Without arguments the query may
// contain several statements.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.exec(ctx, query, args)
	if err != nil {
		return nil, c.s.giveWay(query, err)
	}
	return res, nil
}

func (c *Conn) exec(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Result, err error) {
	if isSeeking(query) {
		c.answer(ctx)
		return driver.RowsAffected(0), nil
	}
	if err := checkRequest(query, args); err != nil {
		return nil, err
	}
	if err := c.s.beginStatement(ctx); err != nil {
		return nil, err
	}
	defer c.s.end(&err)
	c.s.wire.OneTransaction()
	if e, keeps := c.s.keeps(query, args); keeps {
		return c.s.execKept(query, e, args)
	}
	return c.s.pq.ExecContext(background, query, args)
}

// QueryContext implements [driver.QueryerContext]. Without arguments the query may
// contain several statements.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.query(ctx, query, args)
	if err != nil {
		return nil, c.s.giveWay(query, err)
	}
	return rows, nil
}

func (c *Conn) query(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Rows, err error) {
	if isSeeking(query) {
		c.answer(ctx)
		return noRows{}, nil
	}
	if err := checkRequest(query, args); err != nil {
		return nil, err
	}
	if err := c.s.beginStatement(ctx); err != nil {
		return nil, err
	}
	defer c.s.end(&err)
	c.s.wire.OneTransaction()
	if e, keeps := c.s.keeps(query, args); keeps {
		return c.s.queryKept(query, e, args)
	}
	inner, err := c.s.pq.QueryContext(background, query, args)
	if err != nil {
		return nil, err
	}
	return newRows(c.s, inner, isReadOnly(query))
}

// maxArgs is the maximum number of arguments that the protocol can count.
const maxArgs = 1<<16 - 1

// checkRequest refuses too many arguments before lib/pq does, which with
// binary_parameters would take the session for busy ever after.
func checkRequest(query string, args []driver.NamedValue) error {
	if len(args) > maxArgs {
		return fmt.Errorf("pgnotify: %d arguments, at most %d are possible", len(args), maxArgs)
	}
	return checkQuery(query)
}

// checkQuery refuses a query that would end early on the wire: what follows the NUL would
// be read as something else.
func checkQuery(query string) error {
	if at := strings.IndexByte(query, 0); at >= 0 {
		return fmt.Errorf("pgnotify: the query has a NUL byte at position %d", at+1)
	}
	return nil
}

// PrepareContext implements [driver.ConnPrepareContext]. COPY … FROM STDIN inside a
// transaction returns a statement whose Exec sends a row, as in lib/pq.
func (c *Conn) PrepareContext(ctx context.Context, query string) (_ driver.Stmt, err error) {
	if isSeeking(query) {
		c.answer(ctx)
		return &deferredStmt{c, query}, nil
	}
	if st := c.deferred(query); st != nil {
		return st, nil
	}
	if err := checkQuery(query); err != nil {
		return nil, err
	}
	if err := c.s.beginTraced(ctx, hasPrepared); err != nil {
		return nil, err
	}
	defer c.s.end(&err)
	e := c.s.effectsOf(query)
	if beginsCopy(query) { // it runs now, and may be something else to the server
		c.s.heed(e, nil)
		c.s.wire.WantCopy()
	}
	inner, err := c.s.pq.PrepareContext(background, query)
	if err != nil {
		return nil, err
	}
	return newStmt(c.s, inner, query, e), nil
}

// Prepare implements [driver.Conn].
func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(background, query)
}

// BeginTx implements [driver.ConnBeginTx]. [sql.LevelSnapshot] means REPEATABLE READ,
// which is snapshot isolation in PostgreSQL; it has no LevelWriteCommitted and no
// LevelLinearizable.
func (c *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (_ driver.Tx, err error) {
	if err := c.s.begin(ctx); err != nil {
		return nil, err
	}
	defer c.s.end(&err)
	if c.s.wire.Status() != 'I' { // lib/pq would give the session up
		return nil, errInTransaction
	}
	inner, err := c.s.beginTx(opts)
	if err != nil {
		return nil, err
	}
	t := newTx(ctx, c.s, inner)
	if err := ctx.Err(); err != nil { // it ended too late to stop the BEGIN; end rolls back
		t.ask()
		return nil, fmt.Errorf("pgnotify: %w: the transaction was rolled back", err)
	}
	return t, nil
}

// beginTx sends only the options that are set: lib/pq's BeginTx would ask for READ
// WRITE, which a standby refuses. PostgreSQL's REPEATABLE READ is snapshot isolation.
func (s *session) beginTx(opts driver.TxOptions) (driver.Tx, error) {
	if opts.Isolation == driver.IsolationLevel(sql.LevelSnapshot) {
		opts.Isolation = driver.IsolationLevel(sql.LevelRepeatableRead)
	}
	if opts == (driver.TxOptions{}) {
		return s.pq.Begin() //nolint:staticcheck // lib/pq's BeginTx has no other way
	}
	return s.pq.BeginTx(background, opts)
}

var errInTransaction = errors.New("pgnotify: begin: the session is in a transaction already")

// Begin implements [driver.Conn].
//
// Deprecated: Begin exists only because the interface requires it; database/sql calls
// BeginTx.
func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(background, driver.TxOptions{})
}

// Ping implements [driver.Pinger] with a round trip to the server.
func (c *Conn) Ping(ctx context.Context) (err error) {
	if c.answer(ctx) {
		return nil
	}
	if err := c.s.begin(ctx); err != nil {
		return err
	}
	defer c.s.end(&err)
	rows, err := c.s.pq.QueryContext(background, ";", nil)
	if err != nil {
		return err
	}
	return rows.Close()
}

// CheckNamedValue implements [driver.NamedValueChecker] as lib/pq does: slices become
// arrays, and a uint64 may have its high bit set.
func (c *Conn) CheckNamedValue(v *driver.NamedValue) error {
	return c.s.pq.CheckNamedValue(v)
}

// IsValid implements [driver.Validator]. database/sql calls it when the session is
// returned to the pool: handlers are removed, and handles end. It reports false, and
// database/sql closes the session, unless the session is idle, in no transaction, and
// has never listened.
func (c *Conn) IsValid() bool {
	c.s.noteTelling()
	return c.s.returned()
}

// ResetSession implements [driver.SessionResetter]. database/sql calls it before it
// gives the session to the next borrower. It returns [driver.ErrBadConn] if the session
// has ended meanwhile, as far as the socket shows, or has listened.
func (c *Conn) ResetSession(context.Context) error {
	c.s.noteTelling()
	c.s.catchUp()
	if c.s.lease.Load() != 0 && !c.s.returned() { // a wrapper hides IsValid
		return driver.ErrBadConn
	}
	if !c.s.wire.Clean() || c.s.wire.Listened() { // the LISTEN of a function shows only by its notifications
		return driver.ErrBadConn
	}
	c.s.beginLease()
	return nil
}

// Close implements [driver.Conn]. It ends a request under way, and may be called more
// than once.
func (c *Conn) Close() error {
	c.s.close()
	return nil
}

// Exec and Query implement the deprecated [driver.Execer] and [driver.Queryer], as
// lib/pq does, because wrappers may ask for them.

// Exec calls ExecContext.
func (c *Conn) Exec(query string, args []driver.Value) (driver.Result, error) {
	return c.ExecContext(background, query, namedValues(args))
}

// Query calls QueryContext.
func (c *Conn) Query(query string, args []driver.Value) (driver.Rows, error) {
	return c.QueryContext(background, query, namedValues(args))
}

func namedValues(args []driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(args))
	for i, v := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}

// SessionConn is a session that reports what the server has said about it.
type SessionConn interface {
	// PID returns the process id of the session's server process, as in
	// pg_stat_activity.
	PID() uint32

	// TransactionStatus returns where in a transaction the session is. It does not ask
	// the server.
	TransactionStatus() TransactionStatus

	// ParameterStatus returns a setting that the server reports, such as
	// server_version, TimeZone or in_hot_standby, and false for all others. It does not
	// ask the server: on an idle session that does not listen, a change is seen with
	// the next statement.
	ParameterStatus(name string) (string, bool)
}

// A TransactionStatus says where in a transaction a session is.
type TransactionStatus int

// The states of libpq's PQtransactionStatus.
const (
	TransactionUnknown TransactionStatus = iota // the session is lost
	TransactionIdle                             // no transaction
	TransactionActive                           // a request is under way
	TransactionOpen                             // in a transaction, idle
	TransactionFailed                           // in a failed transaction, idle
)

// String returns the status in words.
func (t TransactionStatus) String() string {
	switch t {
	case TransactionUnknown:
		return "unknown"
	case TransactionIdle:
		return "idle"
	case TransactionActive:
		return "active"
	case TransactionOpen:
		return "in transaction"
	case TransactionFailed:
		return "in failed transaction"
	}
	return fmt.Sprintf("TransactionStatus(%d)", int(t))
}

// PID implements [SessionConn].
func (c *Conn) PID() uint32 {
	pid, _ := c.s.wire.Backend()
	return pid
}

// TransactionStatus implements [SessionConn].
func (c *Conn) TransactionStatus() TransactionStatus {
	switch w := c.s.wire; {
	case w.Loss() != nil:
		return TransactionUnknown
	case w.Busy():
		return TransactionActive
	case w.Status() == 'T':
		return TransactionOpen
	case w.Status() == 'E':
		return TransactionFailed
	}
	return TransactionIdle
}

// ParameterStatus implements [SessionConn].
func (c *Conn) ParameterStatus(name string) (string, bool) { return c.s.wire.Parameter(name) }
