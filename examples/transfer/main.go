// Transfer moves money between accounts: a transfer happens as a whole or not at all
// (InTx), a part of it may fail alone (InSavepoint), and it is repeated if it failed
// only because another transaction was in its way. Read the bank in bank.go.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/pgnotify/pgnotify"
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
		fmt.Fprintln(os.Stderr, "transfer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	server, err := pgserver.Start(ctx, pgserver.Options{Logf: printLine})
	if err != nil {
		return err
	}
	defer closing(server, &err)
	db, err := sql.Open("pgnotify", server.DSN())
	if err != nil {
		return err
	}
	defer closing(db, &err)
	b := &bank{db: db}
	if err := b.open(ctx); err != nil {
		return err
	}
	defer closing(b, &err)

	printLine("%-32s %4s %4s %7s", "", "ann", "bob", "points")
	for _, step := range []struct {
		title string
		run   func() string
	}{
		{"at the beginning", func() string { return "" }},
		{"ann gives bob 30, and 5 points", func() string { return b.try(ctx, "ann", "bob", 30, 5) }},
		{"ann gives bob 30, and 50 points", func() string { return b.try(ctx, "ann", "bob", 30, 50) }},
		{"bob gives ann 1000", func() string { return b.try(ctx, "bob", "ann", 1000, 0) }},
		{"ten people at the same time", func() string { return b.crowd(ctx) }},
	} {
		outcome := step.run()
		var ann, bob, points int
		err := db.QueryRowContext(ctx, `SELECT a.balance, b.balance, b.points FROM pgnotify_transfer a,
			pgnotify_transfer b WHERE a.owner = 'ann' AND b.owner = 'bob'`).Scan(&ann, &bob, &points)
		if err != nil {
			return err
		}
		printLine("%-32s %4d %4d %7d  %s", step.title, ann, bob, points, outcome)
	}
	return nil
}

// try makes a transfer and reports the result.
func (b *bank) try(ctx context.Context, from, to string, amount, points int) string {
	switch booked, err := b.transfer(ctx, from, to, amount, points); {
	case err != nil:
		return "undone: " + err.Error()
	case booked != points:
		return "done, without the points"
	}
	return "done"
}

// crowd has ten people move 1 to bob and back, all through the same two rows.
func (b *bank) crowd(ctx context.Context) string {
	var people sync.WaitGroup
	var failed atomic.Int32
	for range 10 {
		people.Go(func() {
			_, there := b.transfer(ctx, "ann", "bob", 1, 0)
			_, back := b.transfer(ctx, "bob", "ann", 1, 0)
			if there != nil || back != nil {
				failed.Add(1)
			}
		})
	}
	people.Wait()
	return fmt.Sprintf("%d failed, %d attempts were repeated", failed.Load(), b.retries.Load())
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
