package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"unicode"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// libpqRows is lib/pq's driver.Rows with its optional interfaces, and the two methods
// that lib/pq adds for users of sql.Conn.Raw.
type libpqRows interface {
	driver.Rows
	driver.RowsNextResultSet
	driver.RowsColumnTypeScanType
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypePrecisionScale
	Result() driver.Result
	Tag() string
}

// rows are the rows of a query. They hold the session's turn until they are closed.
type rows struct {
	libpqRows
	s        *session
	ctx      context.Context // of the query
	readOnly bool            // see isReadOnly
	closed   bool
	cutOff   error // returned by Next after closeCancelledRows has closed the rows

	abandoned bool // closing them has had the statement cancelled
}

// newRows keeps the request under way going, as rows. Those of a statement that was
// prepared earlier may turn out to be other ones.
func newRows(s *session, inner driver.Rows, readOnly bool) (driver.Rows, error) {
	if n, ok := s.wire.Columns(); ok && n != len(inner.Columns()) {
		s.wire.Abort(errColumns)
		return nil, errColumns
	}
	s.op.goesOn = true
	s.op.rows = &rows{libpqRows: inner.(libpqRows), s: s, ctx: s.op.ctx, readOnly: readOnly}
	return s.op.rows, nil
}

var errColumns = &wire.FrameError{Type: 'D', Reason: "not as many columns as the statement has"}

// Next reads the next row. At the end of the last result it leaves the turn to Close,
// which database/sql then calls.
func (r *rows) Next(dest []driver.Value) (err error) {
	if r.cutOff != nil {
		return r.cutOff
	}
	if r.closed {
		return io.EOF
	}
	returned := false
	defer func() {
		if !returned {
			err = r.translate(r.s.caught(recover()))
		}
	}()
	err = r.libpqRows.Next(dest)
	returned = true
	if err != nil && err != io.EOF {
		err = r.translate(err)
	}
	return err
}

// translate is the session's translate for a request that goes on until Close.
func (r *rows) translate(err error) error {
	r.s.wire.CheckFatal()
	return r.s.translate(err, r.s.op.ctx.Err() != nil)
}

// Close reads the rest of the answer, or has it cut short, and gives the turn back. If
// the context has ended before the next result, Close says so: database/sql, which has
// the end of the last one as its error, may not (it learns of the context over two
// channels, and looks at either).
func (r *rows) Close() (err error) {
	if r.closed {
		return r.cutOff
	}
	r.closed = true
	if r.HasNextResultSet() {
		defer func() {
			if err == nil {
				err = r.ctx.Err()
			}
		}()
	}
	r.s.op.rows = nil
	r.s.op.goesOn = false
	defer r.s.end(&err)
	return r.skip()
}

// skip reads the rest of the answer without its rows, which excess may cut short.
func (r *rows) skip() error {
	r.s.op.skipping = r
	r.s.wire.DropRows()
	err := r.libpqRows.Close()
	r.s.op.skipping = nil
	if r.abandoned && isQueryCanceled(err) {
		return nil
	}
	return err
}

// excess has a statement cancelled that only reads, because it is cheaper than to read its
// rows. In a transaction that would fail the transaction, so it is done only if the
// transaction is to be rolled back anyway.
func (r *rows) excess() {
	if r.readOnly && (r.s.wire.Status() == 'I' || r.s.refusal() != nil) {
		r.abandoned = r.s.abandon()
	}
}

// closeCancelledRows closes rows whose context has ended. The program has been told
// that they are closed, but database/sql closes them later, on another goroutine.
func (s *session) closeCancelledRows() {
	if r := s.op.rows; r != nil && r.ctx.Err() != nil {
		r.cutOff = r.ctx.Err()
		_ = r.Close()
	}
}

func isQueryCanceled(err error) bool {
	var server *pq.Error
	return errors.As(err, &server) && server.Code == pqerror.QueryCanceled
}

// isReadOnly reports whether a query is a single SELECT, TABLE or VALUES, of which the
// program wants nothing but the rows, unless it calls functions that write. If in
// doubt, it reports false.
func isReadOnly(query string) bool {
	query = strings.TrimRight(strings.TrimSpace(query), "; \t\r\n")
	if strings.Contains(query, ";") {
		return false
	}
	end := strings.IndexFunc(query, func(c rune) bool { return !unicode.IsLetter(c) })
	first := query[:max(end, 0)]
	return strings.EqualFold(first, "SELECT") || strings.EqualFold(first, "TABLE") || strings.EqualFold(first, "VALUES")
}
