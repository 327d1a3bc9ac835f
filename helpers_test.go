package pgnotify_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
)

// asError is errors.As as an expression.
func asError[E error](err error) (E, bool) {
	var e E
	ok := errors.As(err, &e)
	return e, ok
}

// openConnector returns a pool of a connector, closed when the test ends.
func openConnector(t testing.TB, c driver.Connector) *sql.DB {
	t.Helper()
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db
}
