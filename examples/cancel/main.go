// Cancel shows Ctrl-C as in psql: it ends the running statement, not the program, and
// the session remains usable. If no statement is running, it ends the program.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func main() {
	wait := flag.Bool("wait", false, "wait for your Ctrl-C; otherwise the program presses it itself, twice")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // a first run may download a server
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *wait); err != nil {
		fmt.Fprintln(os.Stderr, "cancel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wait bool) (err error) {
	server, err := pgserver.Start(ctx, pgserver.Options{Logf: printLine})
	if err != nil {
		return err
	}
	defer closing(server, &err)
	signal.Reset(os.Interrupt) // so far it ended the server; from here on it is ours

	db, err := sql.Open("pgnotify", server.DSN())
	if err != nil {
		return err
	}
	defer closing(db, &err)
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer closing(conn, &err)

	d := &demo{db: db, conn: conn, wait: wait}
	if err := d.interrupted(ctx); err != nil {
		return err
	}
	return d.goesOn(ctx)
}

type demo struct {
	db   *sql.DB   // asks about the session, on another session
	conn *sql.Conn // the session whose statement is interrupted
	pid  int       // of its backend
	wait bool      // for somebody at the keyboard
}

// interrupted runs a statement that Ctrl-C ends.
func (d *demo) interrupted(ctx context.Context) error {
	if err := d.conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&d.pid); err != nil {
		return err
	}
	printLine("backend %d runs a statement for five minutes: Ctrl-C ends it", d.pid)
	err := d.untilCtrlC(ctx, func(ctx context.Context) error {
		_, err := d.conn.ExecContext(ctx, "SELECT pg_sleep(300)")
		return err
	})
	if ctx.Err() != nil || !errors.Is(err, context.Canceled) {
		return fmt.Errorf("it was not Ctrl-C that ended the statement: %v", err)
	}
	printLine("  error: %v", err)
	d.printActivity(ctx)
	return nil
}

// goesOn uses the same session again. If Ctrl-C comes now, no statement is running.
func (d *demo) goesOn(ctx context.Context) error {
	var pid int
	if err := d.conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	printLine("backend %d has run the next statement: Ctrl-C ends the program", pid)
	return d.untilCtrlC(ctx, func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
}

// untilCtrlC calls f with a context that Ctrl-C ends; meanwhile Ctrl-C does not end the
// program. To f it is a context like any other.
func (d *demo) untilCtrlC(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	defer time.AfterFunc(time.Second, func() {
		d.printActivity(ctx)
		if !d.wait {
			pressCtrlC(stop)
		}
	}).Stop()
	return f(ctx)
}

// pressCtrlC sends this program what a terminal sends for Ctrl-C. Windows has no such
// signal; there the context ends without it.
func pressCtrlC(cancel context.CancelFunc) {
	printLine("  ^C")
	self, err := os.FindProcess(os.Getpid())
	if err != nil || self.Signal(os.Interrupt) != nil {
		cancel()
	}
}

// printActivity prints what the server does for our session.
func (d *demo) printActivity(ctx context.Context) {
	var state, query string
	err := d.db.QueryRowContext(ctx, "SELECT state, query FROM pg_stat_activity WHERE pid = $1", d.pid).Scan(&state, &query)
	if err == nil {
		printLine("  pg_stat_activity: %s: %s", state, query)
	}
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
