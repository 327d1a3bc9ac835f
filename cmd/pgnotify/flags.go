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

// parse reads args and returns those that are no flags. Flags may stand behind
// them: taking --json for a channel would help nobody. What follows -- is no flag.
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

// flagError is package flag's error about arg, as one of usage. An unknown flag is
// not repeated where it may hold a password: -dpostgres://user:password@host.
func flagError(err error, arg string) error {
	text := err.Error()
	switch {
	case errors.Is(err, errHelp):
		return errHelp
	case !strings.HasPrefix(text, "flag provided but not defined") && !strings.HasPrefix(text, "bad flag syntax"):
		return usageError(text)
	case strings.HasPrefix(arg, "-d"):
		return usageError("a space is missing behind -d")
	}
	name, _, _ := strings.Cut(arg, "=")
	if !strings.HasPrefix(name, "--") || len(name) > 20 {
		name = name[:min(len(name), 2)]
	}
	return usagef("unknown flag %s (put -- before what is no flag)", printable(name))
}

// until returns ctx with the end that -timeout sets, 0 meaning none.
func until(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, errTimeout)
}

// errTimeout is the cause of a context whose -timeout is over.
var errTimeout = errors.New("the timeout is over")

// A limit is how long and how much is wanted.
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
