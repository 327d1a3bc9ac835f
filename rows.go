package pgnotify

import (
	"database/sql/driver"
	"io"
)

// libpqRows is lib/pq's driver.Rows with its optional interfaces, and the two
// methods that lib/pq adds for those who reach it through sql.Conn.Raw.
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

// rows are the rows of a query. They hold the session's turn until they are
// closed.
type rows struct {
	libpqRows
	s      *session
	closed bool
}

// newRows makes the answer of the request under way go on as rows.
func newRows(s *session, inner driver.Rows) *rows {
	s.op.goesOn = true
	return &rows{libpqRows: inner.(libpqRows), s: s}
}

// Next reads the next row. At the end of the last result it leaves the turn to
// Close, which database/sql calls then.
func (r *rows) Next(dest []driver.Value) (err error) {
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

// translate is that of the session; the request goes on until Close.
func (r *rows) translate(err error) error {
	r.s.wire.CheckFatal()
	return r.s.translate(err, r.s.op.ctx.Err() != nil)
}

// Close reads what is left of the answer and gives the turn back.
func (r *rows) Close() (err error) {
	if r.closed {
		return nil
	}
	r.closed = true
	r.s.op.goesOn = false
	defer r.s.end(&err)
	return r.libpqRows.Close()
}
