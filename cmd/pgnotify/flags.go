package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"strings"
	"time"
)

// errHelp says that help was asked for.
var errHelp = flag.ErrHelp

// newFlags returns the flags that every command has.
func newFlags(name string, dsn *string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // run tells
	f.StringVar(dsn, "d", "", "")
	f.StringVar(dsn, "dbname", "", "")
	return f
}

// parse reads args and returns those that are not flags. Flags may follow other
// arguments: taking --json for a channel would help nobody. Nothing after -- is a flag.
func parse(f *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, flagError(err, args[len(args)-f.NArg()-1])
		}
		read := len(args) - f.NArg()
		ended := read > 0 && args[read-1] == "--"
		args = args[read:]
		if ended || len(args) == 0 {
			return append(rest, args...), nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

// flagError returns package flag's error about arg as a usage error. It does not repeat
// an unknown flag that may hold a password: -dpostgres://user:password@host.
func flagError(err error, arg string) error {
	text := err.Error()
	switch {
	case errors.Is(err, errHelp):
		return errHelp
	case !strings.HasPrefix(text, "flag provided but not defined") && !strings.HasPrefix(text, "bad flag syntax"):
		return usageError(text)
	case strings.HasPrefix(arg, "-d"):
		return usageError("a space is missing after -d")
	}
	name, _, _ := strings.Cut(arg, "=")
	if !strings.HasPrefix(name, "--") || len(name) > 20 {
		name = name[:min(len(name), 2)]
	}
	return usagef("unknown flag %s (put -- before arguments that are not flags)", printable(name))
}

// until returns ctx with the deadline that -timeout sets; 0 means none.
func until(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, errTimeout)
}

// errTimeout is the cause of a context whose -timeout is over.
var errTimeout = errors.New("the timeout is over")

// A limit bounds how long a command runs and how much it prints.
type limit struct {
	count   uint
	timeout time.Duration
}

func (l *limit) define(f *flag.FlagSet) {
	f.UintVar(&l.count, "count", 0, "")
	f.DurationVar(&l.timeout, "timeout", 0, "")
}

func (l *limit) check() error { return checkTimeout(l.timeout) }

func checkTimeout(d time.Duration) error {
	if d < 0 {
		return usageError("-timeout must not be negative")
	}
	return nil
}
