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
// Listen prints each notification as it comes. It reconnects by itself, and says
// where notifications may be missing. Notify sends one. Watch shows whether the
// server answers, how fast, and for how long the session has lived. Each command
// tells its flags with -h.
//
// The server is what -d names, a DSN or the name of a database, with the PG*
// environment variables, the service file and ~/.pgpass for what it leaves open.
//
// The exit status is 0 when the command did what it was told to or nobody reads
// its output any more, 1 when it failed, 2 when it was called in the wrong way, and
// what a shell makes of a signal that ends it: 130 for Ctrl-C, 143 for SIGTERM.
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
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if code > exitSignal {
		interrupted.die()
	}
	os.Exit(code)
}

// grace is how long the clean end after a signal may take, where a write to
// a pipe that is full holds it up.
const grace = 3 * time.Second

// An interruption is a signal that ends the program, and the cause of the context
// that it has ended.
type interruption struct {
	signal  os.Signal
	ignored bool // it was when the program began, as in the background of a script
}

func (i *interruption) Error() string { return i.signal.String() }

// status is the exit status for it, as shells have it.
func (i *interruption) status() int {
	if i.signal == syscall.SIGTERM {
		return exitSignal + 15
	}
	return exitSignal + 2
}

// interruptible returns a context that Ctrl-C and SIGTERM end. The second signal,
// or the end of the grace, ends the program at once.
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

// die ends the program by the signal that it got, so that whoever started it
// sees that: the shell ends a loop too, and systemd takes it for success. It ends
// with the status of the signal where a signal would not end it: on Windows, and
// in a container, as its first process.
func (i *interruption) die() {
	ends := os.Getpid() != 1 && (i.signal != os.Interrupt || !i.ignored)
	if self, err := os.FindProcess(os.Getpid()); ends && err == nil && self.Signal(i.signal) == nil {
		time.Sleep(grace) // it takes a moment to come
	}
	os.Exit(i.status())
}
