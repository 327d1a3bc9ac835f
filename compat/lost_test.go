package compat

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
	"text/tabwriter"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultproxy"
)

// A lostCase is a way to run an INSERT of one row, and a way to lose the answer;
// rows is how many there are then, with each driver.
type lostCase struct {
	name  string
	fault faultproxy.Fault
	exec  func(ctx context.Context, db *sql.DB, table string) error
	rows  map[string]int
}

func exec(ctx context.Context, db *sql.DB, table string) error {
	_, err := db.ExecContext(ctx, "insert into "+table+" values (1)")
	return err
}

// execArgs takes two round trips with each of the drivers: the answer to the
// second is the one to be lost.
func execArgs(ctx context.Context, db *sql.DB, table string) error {
	_, err := db.ExecContext(ctx, "insert into "+table+" values ($1)", 1)
	return err
}

func execPrepared(ctx context.Context, db *sql.DB, table string) error {
	st, err := db.PrepareContext(ctx, "insert into "+table+" values ($1)")
	if err != nil {
		return err
	}
	defer st.Close()
	_, err = st.ExecContext(ctx, 1)
	return err
}

// drivers are pgnotify, lib/pq and pgx/stdlib, by the names for sql.Open.
var drivers = []string{"pgnotify", "postgres", "pgx"}

// lostCases say what each driver does, as measured with the versions in go.mod.
// database/sql runs a statement up to three times when the driver tells it that
// the connection was bad from the start.
var lostCases = []lostCase{
	{"Exec, FIN", faultproxy.Fault{}, exec,
		map[string]int{"pgnotify": 1, "postgres": 3, "pgx": 3}},
	{"Exec, RST", faultproxy.Fault{Reset: true}, exec,
		map[string]int{"pgnotify": 1, "postgres": 1, "pgx": 3}},
	{"Exec, FIN within the answer", faultproxy.Fault{Keep: 9}, exec,
		map[string]int{"pgnotify": 1, "postgres": 3, "pgx": 3}},
	{"Exec with arguments, FIN", faultproxy.Fault{Skip: 1}, execArgs,
		map[string]int{"pgnotify": 1, "postgres": 3, "pgx": 1}},
	{"Exec with arguments, RST", faultproxy.Fault{Skip: 1, Reset: true}, execArgs,
		map[string]int{"pgnotify": 1, "postgres": 1, "pgx": 1}},
	{"prepared Exec, FIN", faultproxy.Fault{Skip: 1}, execPrepared,
		map[string]int{"pgnotify": 1, "postgres": 3, "pgx": 1}},
	{"prepared Exec, RST", faultproxy.Fault{Skip: 1, Reset: true}, execPrepared,
		map[string]int{"pgnotify": 1, "postgres": 1, "pgx": 1}},
}

// D13, promise 1: one Exec of an INSERT, of which each execution succeeds and
// each answer is lost, leaves one row with pgnotify, and up to three with others.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "rows of one INSERT\t%s\n", strings.Join(drivers, "\t"))
	for _, c := range lostCases {
		fmt.Fprint(table, c.name)
		for _, name := range drivers {
			rows, err := c.run(t, name)
			fmt.Fprintf(table, "\t%d", rows)
			if rows != c.rows[name] {
				t.Errorf("%s: %s: %d rows, want %d: %v", c.name, name, rows, c.rows[name], err)
			}
			if name == "pgnotify" {
				checkLost(t, c.name, err)
			}
		}
		fmt.Fprintln(table)
	}
	table.Flush()
	t.Logf("\n%s", text.String())
}

// run executes the INSERT with a driver and returns how many rows there are.
func (c *lostCase) run(t *testing.T, driverName string) (rows int, lost error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s := server(t)
	direct := open(t, "postgres", s.DSN())
	table := fmt.Sprintf("lost_%d", time.Now().UnixNano())
	if _, err := direct.ExecContext(ctx, "create table "+table+" (a int)"); err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.Start(t, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
	db := open(t, driverName, fmt.Sprintf("%s host=%s port=%d", s.DSN(), proxy.Host(), proxy.Port()))
	if err := db.PingContext(ctx); err != nil {
		t.Fatal(err)
	}
	fault := c.fault
	fault.Match, fault.Repeat = "insert into "+table, true
	proxy.Break(fault)
	if lost = c.exec(ctx, db, table); lost == nil {
		t.Errorf("%s: %s: no error", c.name, driverName)
	}
	if err := direct.QueryRowContext(ctx, "select count(*) from "+table).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if n := proxy.Broken(); n != rows {
		t.Errorf("%s: %s: %d rows, but %d answers were lost", c.name, driverName, rows, n)
	}
	return rows, lost
}

// checkLost checks that pgnotify's error says what is known.
func checkLost(t *testing.T, name string, err error) {
	t.Helper()
	var lost *pgnotify.DisconnectError
	if !errors.As(err, &lost) || !lost.Sent || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("%s: %v", name, err)
	}
}

func open(t *testing.T, driverName, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driverName, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
