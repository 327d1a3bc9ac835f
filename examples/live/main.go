// Live is a web page that shows the rows of a table as they are inserted. Each browser
// has its own subscription, and reads from the table what it may have missed. Read the
// stream in internal/feed/stream.go.
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

	"github.com/pgnotify/pgnotify/examples/live/internal/feed"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func main() {
	serve := flag.Bool("serve", false, "serve the page until Ctrl-C; without it, the program plays two browsers and ends by itself")
	flag.Parse()
	interrupt, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(interrupt, *serve); err != nil {
		if interrupt.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "live:", err)
		os.Exit(1)
	}
}

func run(interrupt context.Context, serve bool) (err error) {
	ctx, cancel := context.WithTimeout(interrupt, 5*time.Minute) // a first run may download a server
	defer cancel()
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
	if err := feed.Create(ctx, db); err != nil {
		return err
	}
	defer func() {
		if interrupt.Err() == nil || server.Source() == pgserver.Existing { // Ctrl-C ends a throwaway one
			err = errors.Join(err, drop(db))
		}
	}()

	s := &site{db: db}
	if s.radio, err = newRadio(server.DSN()); err != nil {
		return err
	}
	defer closing(s.radio, &err)
	if err := s.open(); err != nil {
		return err
	}
	defer closing(s, &err)
	if serve {
		return s.serve(interrupt)
	}
	return (&story{site: s}).tell(ctx)
}

// drop removes the table, even after Ctrl-C.
func drop(db *sql.DB) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return feed.Drop(ctx, db)
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
