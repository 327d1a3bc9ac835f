package pgnotify_test

import (
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// Each of these tests is a row of "Moving from lib/pq" in README.md: it shows what lib/pq
// does, so that the row does not outlive the difference, and then what pgnotify does.

// libpqPool returns a pool of lib/pq's, closed when the test ends.
func libpqPool(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// bothErrors returns the errors of connecting by lib/pq and by pgnotify, nil where there
// is none.
func bothErrors(t testing.TB, dsn string) (libpq, ours error) {
	t.Helper()
	return libpqPool(t, dsn).PingContext(testContext(t)), open(t, dsn).PingContext(testContext(t))
}

func TestMovingPortsOfAURL(t *testing.T) {
	t.Parallel()
	const dsn = "postgres://u@db1,db2:6432/d?sslmode=disable"
	theirs, err := pq.NewConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if len(theirs.Multi) != 1 || theirs.Port != 6432 || theirs.Multi[0].Port != 6432 {
		t.Errorf("lib/pq: port %d, and %+v", theirs.Port, theirs.Multi)
	}
	checkServers(t, dsn, "db1:5432 db2:6432")
	for _, both := range []string{"postgres://u@db1,db2/d?port=6432", "host=db1,db2 port=6432"} {
		checkServers(t, both, "db1:6432 db2:6432")
	}
}

func TestMovingApplicationName(t *testing.T) {
	t.Parallel()
	const show = "select current_setting('application_name')"
	if got := queryValue[string](t, libpqPool(t, dsn(t)), show); got != "" {
		t.Errorf("lib/pq: %q", got)
	}
	ours := open(t, dsn(t), func(c *pgnotify.Config) { c.ApplicationName = "" })
	if got := queryValue[string](t, ours, show); got != filepath.Base(os.Args[0]) {
		t.Errorf("%q", got)
	}
}

// lib/pq verifies against the roots of the system, which do not know the server's.
func TestMovingVerifyCAWithoutARootFile(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	theirs, ours := bothErrors(t, ours(t).dsn+" sslmode=verify-ca")
	if _, ok := asError[x509.UnknownAuthorityError](theirs); !ok {
		t.Errorf("lib/pq: %v", theirs)
	}
	if ours == nil || !strings.Contains(ours.Error(), "root.crt") || !strings.Contains(ours.Error(), "sslrootcert=system") {
		t.Errorf("%v", ours)
	}
}

func TestMovingCertificateErrors(t *testing.T) {
	t.Parallel()
	s := ours(t)
	theirs, ours := bothErrors(t, s.dsn+" host=localhost sslmode=verify-ca sslrootcert="+otherRoot(t))
	if _, bare := theirs.(x509.UnknownAuthorityError); !bare {
		t.Errorf("lib/pq: %T: %v", theirs, theirs)
	}
	if _, bare := ours.(x509.UnknownAuthorityError); bare {
		t.Errorf("it is bare: %v", ours)
	}
	if _, ok := asError[x509.UnknownAuthorityError](ours); !ok {
		t.Errorf("%v", ours)
	}
}

// otherRoot returns a file with a root certificate that has signed nothing.
func otherRoot(t testing.TB) string {
	t.Helper()
	cert, _, err := newCertificate("another CA", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(file, []byte(certPEM(cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A server that answers the request for TLS by an error.
func TestMovingPreferAfterAnErrorAnswer(t *testing.T) {
	t.Parallel()
	refuse := pgfake.Script{pgfake.Send(pgfake.Error("FATAL", "53300", "too many")), pgfake.Drain()}
	welcome := pgfake.Script{pgfake.Greet(), pgfake.Serve()}
	for name, connect := range map[string]func(dsn string) error{
		"lib/pq":   func(dsn string) error { return libpqPool(t, dsn).PingContext(testContext(t)) },
		"pgnotify": func(dsn string) error { return open(t, dsn).PingContext(testContext(t)) },
	} {
		fake := pgfake.Start(t, refuse, welcome)
		err := connect(fake.DSN() + " sslmode=prefer")
		if name == "lib/pq" && err != nil {
			t.Errorf("lib/pq: %v", err)
		}
		if name == "pgnotify" && (err == nil || fake.Sessions() != 1) {
			t.Errorf("%v, after %d connections", err, fake.Sessions())
		}
	}
}

// A server that takes TLS and then refuses the user because of it.
func TestMovingPreferWhereTLSIsRefused(t *testing.T) {
	t.Parallel()
	theirs, ours := bothErrors(t, ours(t).dsn+" sslmode=prefer user=t_hostnossl")
	if refused, ok := asError[*pq.Error](theirs); !ok || refused.Code != "28000" {
		t.Errorf("lib/pq: %v", theirs)
	}
	if ours != nil {
		t.Error(ours)
	}
}

func TestMovingBusySession(t *testing.T) {
	t.Parallel()
	busy := func(db *sql.DB) error {
		c := borrow(t, db)
		tx, err := c.BeginTx(testContext(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		rows, err := tx.QueryContext(testContext(t), "select generate_series(1, 3)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		return execError(tx.ExecContext(testContext(t), "select 1"))
	}
	if err := busy(libpqPool(t, dsn(t))); err == nil || !strings.Contains(err.Error(), "already a query being processed") {
		t.Errorf("lib/pq: %v", err)
	}
	if err := busy(open(t, dsn(t))); !errors.Is(err, pgnotify.ErrBusy) {
		t.Errorf("%v", err)
	}
}

// The next borrower of a session that listened: of the same session or of another one.
func TestMovingTemporaryTableOfASessionThatListened(t *testing.T) {
	t.Parallel()
	table := uniqueName("t")
	survives := func(db *sql.DB) bool {
		db.SetMaxOpenConns(1)
		mustExec(t, db, "create temporary table "+table+" ()")
		mustExec(t, db, "listen "+uniqueName("c"))
		return queryValue[bool](t, db, "select to_regclass($1) is not null", table)
	}
	if !survives(libpqPool(t, dsn(t))) {
		t.Error("lib/pq: the session was not used again")
	}
	if survives(open(t, dsn(t))) {
		t.Error("a session that listened was used again")
	}
}

// A server, or a proxy in front of it, that takes TLS at once but knows no ALPN.
func TestMovingDirectTLSWithoutALPN(t *testing.T) {
	t.Parallel()
	config := fakeTLS(t, nil)
	config.NextProtos = nil
	fake := pgfake.Start(t, pgfake.Script{pgfake.DirectTLS(config), pgfake.Greet(), pgfake.Serve()})
	theirs, ours := bothErrors(t, fake.DSN()+" sslmode=require sslnegotiation=direct")
	if theirs != nil {
		t.Errorf("lib/pq: %v", theirs)
	}
	if ours == nil || !strings.Contains(fmt.Sprint(ours), "ALPN") {
		t.Errorf("%v", ours)
	}
}
