// Quickstart shows on a real server what a session of pgnotify can do: it runs queries,
// receives notices and notifications, and survives a cancelled query.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func main() {
	interrupt, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupt, 5*time.Minute) // a first run may download a server
	defer cancel()
	if err := run(ctx); err != nil {
		if interrupt.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	// The server that PGNOTIFY_DSN names, or else one that lives until Close.
	server, err := pgserver.Start(ctx, pgserver.Options{Logf: printLine})
	if err != nil {
		return err
	}
	defer closing(server, &err)

	// pgnotify is a driver for database/sql: db is a pool of sessions.
	db, err := sql.Open("pgnotify", server.DSN())
	if err != nil {
		return err
	}
	defer closing(db, &err)

	// Only the session that listens is notified, so take one out of the pool.
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer closing(conn, &err)

	// Its handle has the methods that database/sql does not.
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		return err
	}

	t := &tour{db: db, conn: conn, pc: pc, channel: fmt.Sprintf("quickstart_%d", pc.PID())}
	for i, step := range []struct {
		title string
		run   func(context.Context) (string, error)
	}{
		{"a query", t.query},
		{"a notice", t.notice},
		{"a notification while idle", t.whileIdle},
		{"a notification while busy", t.whileBusy},
		{"a cancelled query", t.cancelled},
		{"the same session after it", t.query},
	} {
		result, err := step.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		printLine("%d. %-27s %s", i+1, step.title, result)
	}
	return nil
}

type tour struct {
	db      *sql.DB
	conn    *sql.Conn      // one session: for statements
	pc      *pgnotify.Conn // the same session: for everything else
	channel string         // one that nobody else uses
}

func (t *tour) query(ctx context.Context) (result string, err error) {
	err = t.conn.QueryRowContext(ctx, `SELECT 'backend ' || pg_backend_pid()`).Scan(&result)
	return result, err
}

// When a statement returns, its notices have been handled.
func (t *tour) notice(ctx context.Context) (result string, err error) {
	result = "none: this server's client_min_messages is above NOTICE"
	remove := t.pc.AddNoticeHandler(func(n *pgnotify.Notice) { result = n.String() })
	defer remove()
	_, err = t.conn.ExecContext(ctx, `DO $$ BEGIN RAISE NOTICE 'half way there'; END $$`)
	return result, err
}

// Our session is lent to conn, so the pool sends from another one.
func (t *tour) whileIdle(ctx context.Context) (string, error) {
	if err := t.pc.Listen(ctx, t.channel); err != nil {
		return "", err
	}
	if err := pgnotify.Notify(ctx, t.db, t.channel, "good morning"); err != nil {
		return "", err
	}
	n, err := t.pc.WaitForNotification(ctx)
	return fmt.Sprintf("%q from backend %d", n.Payload, n.PID), err
}

// A handler is called while the program does something else: here, queries.
func (t *tour) whileBusy(ctx context.Context) (string, error) {
	heard, sent := make(chan pgnotify.Notification, 1), make(chan error, 1)
	defer t.pc.AddNotificationHandler(func(n pgnotify.Notification) { heard <- n })()
	go func() { sent <- pgnotify.Notify(ctx, t.db, t.channel, "are you busy?") }()
	for queries := 1; ; queries++ {
		if _, err := t.conn.ExecContext(ctx, `SELECT sum(i) FROM generate_series(1, 50000) i`); err != nil {
			return "", err
		}
		select {
		case n := <-heard:
			return fmt.Sprintf("%q from backend %d (queries meanwhile: %d)", n.Payload, n.PID, queries), nil
		case err := <-sent:
			if err != nil {
				return "", err
			}
		default:
		}
	}
}

// This query would take a minute. Its context ends it after 0.2 seconds.
func (t *tour) cancelled(ctx context.Context) (string, error) {
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := t.conn.ExecContext(short, `SELECT pg_sleep(60)`)
	if !errors.Is(err, context.DeadlineExceeded) {
		return "", fmt.Errorf("not cancelled: %v", err)
	}
	return err.Error(), nil
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
