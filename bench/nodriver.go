package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
)

func init() { sql.Register(noDriver.registered, noneDriver{}) }

// A noneDriver answers every query with one row, the number 1, at once: what it
// costs is database/sql and the benchmark itself. It is its own connection.
type noneDriver struct{}

var (
	_ driver.QueryerContext   = noneDriver{}
	_ driver.StmtQueryContext = noneStmt{}
)

var errNoDriver = errors.New("no driver: it can do nothing but query")

func (d noneDriver) Open(string) (driver.Conn, error)  { return d, nil }
func (noneDriver) Prepare(string) (driver.Stmt, error) { return noneStmt{}, nil }
func (noneDriver) Begin() (driver.Tx, error)           { return nil, errNoDriver }
func (noneDriver) Close() error                        { return nil }

func (noneDriver) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return &noneRows{}, nil
}

// A noneStmt is a prepared statement.
type noneStmt struct{}

func (noneStmt) Close() error                               { return nil }
func (noneStmt) NumInput() int                              { return -1 }
func (noneStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errNoDriver }
func (noneStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errNoDriver }

func (noneStmt) QueryContext(context.Context, []driver.NamedValue) (driver.Rows, error) {
	return &noneRows{}, nil
}

// noneRows are one row.
type noneRows struct{ read bool }

func (*noneRows) Columns() []string { return []string{"one"} }
func (*noneRows) Close() error      { return nil }

func (r *noneRows) Next(dest []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, dest[0] = true, int64(1)
	return nil
}
