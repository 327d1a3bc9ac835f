// Cache keeps values of a table in memory. A trigger tells it which of them change, and
// CatchUp puts it right when it may have missed a change. Read the cache in cache.go.
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
		fmt.Fprintln(os.Stderr, "cache:", err)
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
	t := table{db}
	if err := t.create(ctx); err != nil {
		return err
	}
	defer closing(t, &err)

	s := &story{table: t, heard: make(chan string, 1000)}
	s.radio, err = newRadio(server.DSN(), s.onEvent)
	if err != nil {
		return err
	}
	defer closing(s.radio, &err)
	s.cache, err = newCache(ctx, db, s.radio.Listener, s.told)
	if err != nil {
		return err
	}
	defer closing(s.cache, &err)
	return s.tell(ctx)
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
