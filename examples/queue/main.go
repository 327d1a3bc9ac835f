// Queue has workers do the jobs in a table, each job once. The workers sleep until a
// notification wakes them, or a gap, after which there may be jobs that they were not
// told of. Read the worker in worker.go.
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
		fmt.Fprintln(os.Stderr, "queue:", err)
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
	j := jobs{db}
	if err := j.create(ctx); err != nil {
		return err
	}
	defer closing(j, &err)

	s := &story{
		db: db, jobs: j,
		events: make(chan pgnotify.ListenerEvent, 100),
		begun:  &tally{times: make(map[int64]int)},
	}
	s.radio, err = newRadio(server.DSN(), func(e pgnotify.ListenerEvent) { s.events <- e })
	if err != nil {
		return err
	}
	defer closing(s.radio, &err)
	return s.tell(ctx)
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
