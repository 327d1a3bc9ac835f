package pgserver_test

import (
	"context"
	"database/sql"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// limit bounds what a test waits for. It is long: the machine may be busy.
const limit = 90 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// start starts a server, and skips the test where its source is not there.
func start(t *testing.T, source pgserver.Source, opts pgserver.Options) *pgserver.Server {
	t.Helper()
	require(t, source)
	opts.Sources = []pgserver.Source{source}
	s, err := pgserver.Start(testContext(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// require skips the test where source is not there.
func require(t *testing.T, source pgserver.Source) {
	t.Helper()
	var err error
	switch source {
	case pgserver.Installed:
		_, err = pgserver.FindInstalled()
	case pgserver.Docker:
		err = pgserver.CheckDocker(testContext(t))
	}
	if err != nil {
		t.Skipf("needs %v: %v", source, err)
	}
}

// setting returns the value of a server setting.
func setting(t *testing.T, dsn, name string) string {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var value string
	if err := db.QueryRowContext(testContext(t), "SELECT current_setting($1)", name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// count returns how many databases of a name a server has.
func count(t *testing.T, s *pgserver.Server, name string) (n int) {
	t.Helper()
	db, err := sql.Open("postgres", s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.QueryRowContext(testContext(t), "SELECT count(*) FROM pg_database WHERE datname = $1", name).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// execute runs a statement.
func execute(t *testing.T, dsn, query string) {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(testContext(t), query); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok reports true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// refused reports whether nobody listens on the port.
func refused(port int) bool {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		conn.Close()
	}
	return err != nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return os.IsNotExist(err)
}

// processOf reports whether any process, the janitor too, has the name of the
// server in its command line.
func processOf(t *testing.T, name string) bool {
	t.Helper()
	err := exec.Command("pgrep", "-f", name).Run()
	return err == nil
}
