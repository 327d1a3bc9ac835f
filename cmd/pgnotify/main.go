// Pgnotify listens to PostgreSQL's notifications, sends them, and watches a
// server, from the command line.
//
// Usage:
//
//	pgnotify listen [flags] CHANNEL...
//	pgnotify notify [flags] CHANNEL [PAYLOAD|-]
//	pgnotify watch [flags]
//	pgnotify help [COMMAND]
//	pgnotify version
//
// Listen prints each notification as it comes. It reconnects by itself, and says where
// notifications may be missing. Notify sends one. Watch shows whether the server
// answers, how fast, and for how long the session has lived. Each command prints its
// flags with -h.
//
// The server is named by -d, a DSN or the name of a database. The PG* environment
// variables, the service file and ~/.pgpass supply what it leaves open.
//
// The exit status is 0 if the command succeeded or nobody reads its output any more, 1
// if it failed, 2 if its arguments were wrong, and the usual status of a shell if a
// signal ended it: 130 for Ctrl-C, 143 for SIGTERM.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ignoreSIGPIPE()
	ctx, interrupted := interruptible()
	code := run(ctx, os.Args[min(1, len(os.Args)):], os.Stdin, os.Stdout, os.Stderr)
	if code > exitSignal {
		interrupted.die()
	}
	os.Exit(code)
}

// grace is how long a clean end may take after a signal, in case a write to a full pipe
// holds it up.
const grace = 3 * time.Second

// An interruption is a signal that ends the program. It is also the cause of the
// context that it ended.
type interruption struct {
	signal  os.Signal
	ignored bool // it was ignored when the program began, as in the background of a script
}

func (i *interruption) Error() string { return i.signal.String() }

// status returns the exit status for the signal, as shells define it.
func (i *interruption) status() int {
	if i.signal == syscall.SIGTERM {
		return exitSignal + 15
	}
	return exitSignal + 2
}

// interruptible returns a context that ends on Ctrl-C or SIGTERM. A second signal, or
// the end of the grace period, ends the program at once.
func interruptible() (context.Context, *interruption) {
	i := &interruption{signal: os.Interrupt, ignored: signal.Ignored(os.Interrupt)}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { // ends with the program
		i.signal = <-signals
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		cancel(i)
		time.Sleep(grace)
		i.die()
	}()
	return ctx, i
}

// die ends the program by the signal that it received, so that its parent sees that: a
// shell then ends its loop too, and systemd counts it as success. Where a signal would
// not end the program, on Windows and as the first process of a container, die exits
// with the signal's status.
func (i *interruption) die() {
	ends := os.Getpid() != 1 && (i.signal != os.Interrupt || !i.ignored)
	if self, err := os.FindProcess(os.Getpid()); ends && err == nil && self.Signal(i.signal) == nil {
		time.Sleep(grace) // the signal takes a moment to arrive
	}
	os.Exit(i.status())
}
