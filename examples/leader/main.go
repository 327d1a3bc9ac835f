// Leader has two processes elect a leader by an advisory lock. The leader stops its
// work when it loses its session, and the other process takes over. Read the candidate
// in candidate.go.
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
	"strings"
	"syscall"
	"time"

	_ "github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func main() {
	name := flag.String("name", "", "be the candidate of this name, on the server of PGNOTIFY_DSN; without it, the program starts two and ends by itself")
	limit := flag.Duration("for", 5*time.Minute, "how long at most") // a first run may download a server
	flag.Parse()
	interrupt, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupt, *limit)
	defer cancel()
	f := show
	if *name != "" {
		f = func(ctx context.Context) error { return takePart(ctx, *name) }
	}
	if err := f(ctx); err != nil {
		if interrupt.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

// takePart is the whole program of a candidate.
func takePart(ctx context.Context, name string) (err error) {
	db, err := sql.Open("pgnotify", os.Getenv("PGNOTIFY_DSN"))
	if err != nil {
		return err
	}
	defer closing(db, &err)
	(&candidate{db: db, name: name}).run(ctx)
	return nil
}

// show starts two candidates, ends a session, and ends a process.
func show(ctx context.Context) (err error) {
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
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	s := &stage{db: db, start: time.Now(), heard: make(chan word, 100)}
	ann, err := launch(ctx, "ann", server.DSN(), s.heard)
	if err != nil {
		return err
	}
	defer closing(ann, &err)
	if _, err := s.await(ctx, "ann", "leads"); err != nil {
		return err
	}
	bob, err := launch(ctx, "bob", server.DSN(), s.heard)
	if err != nil {
		return err
	}
	defer closing(bob, &err)
	if _, err := s.await(ctx, "bob", "waits"); err != nil {
		return err
	}
	if err := s.depose(ctx, "ann", "bob"); err != nil {
		return err
	}
	if err := s.depose(ctx, "bob", "ann"); err != nil {
		return err
	}
	return s.kill(ctx, ann, "bob")
}

// A stage is where the candidates are seen.
type stage struct {
	db    *sql.DB
	start time.Time
	heard chan word
}

// await prints what the candidates say until one says what is expected.
func (s *stage) await(ctx context.Context, name, text string) (time.Time, error) {
	for {
		select {
		case w := <-s.heard:
			s.print(w.at, w.text)
			if strings.HasPrefix(w.text, name+" "+text) {
				return w.at, nil
			}
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s has not said %q: %w", name, text, ctx.Err())
		}
	}
}

// depose terminates the leader's session. It measures time in this process, not the
// leader's.
func (s *stage) depose(ctx context.Context, leader, next string) error {
	start := time.Now()
	s.print(start, "-- pg_terminate_backend, of "+leader+"'s session")
	ended, err := s.db.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND classid = $1 AND objid = $2
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, lockClass, lockID)
	if err != nil {
		return err
	}
	if n, _ := ended.RowsAffected(); n != 1 {
		return fmt.Errorf("%d sessions have the lock: %s alone should", n, leader)
	}
	stopped, err := s.await(ctx, leader, "has stopped")
	if err != nil {
		return err
	}
	leads, err := s.await(ctx, next, "leads")
	if err != nil {
		return err
	}
	s.print(time.Now(), fmt.Sprintf("   %s worked for %.1f ms more; %s leads after %.0f ms",
		leader, milliseconds(stopped.Sub(start)), next, milliseconds(leads.Sub(start))))
	return nil
}

// kill ends the leader's process, which has no time to say anything.
func (s *stage) kill(ctx context.Context, leader *process, next string) error {
	start := time.Now()
	s.print(start, "-- "+leader.name+"'s process is killed")
	if err := leader.cmd.Process.Kill(); err != nil {
		return err
	}
	leads, err := s.await(ctx, next, "leads")
	if err != nil {
		return err
	}
	s.print(time.Now(), fmt.Sprintf("   %s leads after %.0f ms", next, milliseconds(leads.Sub(start))))
	return nil
}

func (s *stage) print(at time.Time, text string) {
	printLine("%5.2f s  %s", at.Sub(s.start).Seconds(), text)
}

func printLine(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func closing(c io.Closer, err *error)      { *err = errors.Join(*err, c.Close()) }
