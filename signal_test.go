package pgnotify_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// The interrupted is a program that runs a long query until it gets SIGINT, and
// then goes on with its session.

const (
	interruptedRole   = "interrupted"
	interruptedDSN    = "PGNOTIFY_TEST_INTERRUPTED_DSN"
	interruptedActive = "PGNOTIFY_TEST_INTERRUPTED_ACTIVE"
)

func init() { roles[interruptedRole] = runInterrupted }

func runInterrupted() int {
	if err := interrupted(os.Getenv(interruptedDSN), os.Getenv(interruptedActive) != ""); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// interrupted prints the session's process id first, and "fine" at the end.
func interrupted(dsn string, active bool) error {
	all, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sql.Open("pgnotify", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(all)
	if err != nil {
		return err
	}
	defer conn.Close()
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		return err
	}
	if active {
		pc.Activate()
	}
	ctx, stop := signal.NotifyContext(all, os.Interrupt)
	defer stop()
	tx, err := conn.BeginTx(all, nil)
	if err != nil {
		return err
	}
	fmt.Println(pc.PID())
	_, err = tx.ExecContext(ctx, longSleep)
	if !errors.Is(err, context.Canceled) || !isQueryCanceled(err) {
		return fmt.Errorf("the query: %w", err)
	}
	if err := tx.Rollback(); err != nil {
		return fmt.Errorf("ROLLBACK: %w", err)
	}
	var pid uint32
	if err := conn.QueryRowContext(all, "select pg_backend_pid()").Scan(&pid); err != nil || pid != pc.PID() {
		return fmt.Errorf("session %d became %d: %w", pc.PID(), pid, err)
	}
	fmt.Println("fine")
	return db.Close()
}

// K4: a program that gets SIGINT while a query runs. The query is gone from the
// server within a second, and the session is usable after rollback.
func TestInterruptEndsTheQuery(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("os.Process.Signal does not know os.Interrupt on Windows")
	}
	took := mostlyWithin(t, time.Second)
	for _, m := range modes(t) {
		for _, active := range []string{"", "active"} {
			t.Run(m.name+"/"+active, func(t *testing.T) {
				t.Parallel()
				took(interrupt(t, m.dsn, active))
			})
		}
	}
}

// interrupt returns how long the query went on after Ctrl-C.
func interrupt(t *testing.T, target, active string) (took time.Duration) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t), exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+interruptedRole, interruptedActive+"="+active,
		interruptedDSN+"="+target+" application_name="+quote(appName))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	var pid uint32
	if _, err := fmt.Sscan(lines.Text(), &pid); err != nil {
		t.Errorf("it said %q", lines.Text())
	}
	server := open(t, dsn(t))
	untilWaiting(t, server, pid, "PgSleep")
	began := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	until(t, "the query is gone", func() bool {
		return !queryValue[bool](t, server, `select exists (select from pg_stat_activity
			where pid = $1 and state = 'active' and wait_event = 'PgSleep')`, pid)
	})
	took = time.Since(began)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	if err := cmd.Wait(); err != nil || strings.Join(said, "\n") != "fine" {
		t.Errorf("it said %q: %v", said, err)
	}
	return took
}
