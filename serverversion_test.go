package pgnotify_test

import "testing"

// serverVersion returns the major version of a server.
func serverVersion(t testing.TB, db queryer) int {
	t.Helper()
	return queryValue[int](t, db, "select current_setting('server_version_num')::int / 10000")
}

// needsServer skips a test of what PostgreSQL has from a major version on, if the tests'
// server is older.
func needsServer(t testing.TB, major int, what string) {
	t.Helper()
	if v := serverVersion(t, open(t, dsn(t))); v < major {
		t.Skipf("%s: from PostgreSQL %d on, this is %d", what, major, v)
	}
}
