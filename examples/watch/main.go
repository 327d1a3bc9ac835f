// Watch shows how a pool learns that its sessions, idle and busy ones, are lost, and
// why, and that it continues without an error. The program itself causes the losses.
package main

import (
	"context"
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
		fmt.Fprintln(os.Stderr, "watch:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	server, err := pgserver.Start(ctx, pgserver.Options{Logf: printLine})
	if err != nil {
		return err
	}
	defer closing(server, &err)
	p, err := open(server.DSN())
	if err != nil {
		return err
	}
	defer closing(p, &err)
	m, err := newMischief(ctx, server)
	if err != nil {
		return err
	}
	defer closing(m.db, &err)

	for _, step := range []struct {
		title string
		do    func(ctx context.Context, p *pool, pids []uint32) (lost int, err error)
	}{
		{"pg_terminate_backend, of an idle session", m.terminateIdle},
		{"pg_terminate_backend, of a busy one", m.terminateBusy},
		{"idle_session_timeout, 100 ms", m.idleTimeout},
		{"a backend is killed, and the server ends all others", m.killBackend},
		{"the server is restarted", m.restart},
	} {
		printLine("%s", step.title)
		if err := p.suffer(ctx, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
