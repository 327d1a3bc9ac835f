package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"slices"
	"strconv"
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
			return nil, flagError(err, args[len(args)-f.NArg()-1], f.Args())
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

// flagError returns package flag's error about arg, which rest follows, as a usage error.
// It does not repeat an unknown flag that may hold a password:
// -dpostgres://user:password@host.
func flagError(err error, arg string, rest []string) error {
	text := err.Error()
	switch {
	case errors.Is(err, errHelp) && !isHost(arg, rest):
		return errHelp
	case errors.Is(err, errHelp):
		return errPsqlFlag
	case !strings.HasPrefix(text, "flag provided but not defined") && !strings.HasPrefix(text, "bad flag syntax"):
		return usageError(text)
	case isPsqlFlag(arg):
		return errPsqlFlag
	case strings.HasPrefix(arg, "-d"):
		return usageError("a space is missing after -d")
	}
	name, _, _ := strings.Cut(arg, "=")
	if !strings.HasPrefix(name, "--") || len(name) > 20 {
		name = name[:min(len(name), 2)]
	}
	return usagef("unknown flag %s (put -- before arguments that are not flags)", printable(name))
}

// errPsqlFlag tells users of psql how the server is named here. It repeats nothing, as
// -p may have been meant for a password.
const errPsqlFlag = usageError(`-h, -p, -U, -w and -W do not mean what they do in psql: use -d "host=127.0.0.1 port=5432 user=u"`)

// isHost reports whether a flag for help, which rest follows, looks like psql's -h HOST.
func isHost(arg string, rest []string) bool {
	_, _, valued := strings.Cut(arg, "=")
	if arg == "-h" && len(rest) > 0 {
		valued = !strings.HasPrefix(rest[0], "-")
	}
	return valued || slices.ContainsFunc(rest, isPsqlFlag)
}

// isPsqlFlag reports whether arg is one of psql's flags for naming a server or a
// password, or such a flag with its value, as in -p5432.
func isPsqlFlag(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	switch name {
	case "-w", "-W", "--host", "--port", "--username", "--password", "--no-password":
		return true
	}
	switch {
	case strings.HasPrefix(name, "-pr"), strings.HasPrefix(name, "-he"), name == "-h": // -probe, -help
		return false
	}
	return strings.HasPrefix(name, "-p") || strings.HasPrefix(name, "-h") || strings.HasPrefix(name, "-U")
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
	f.Func("count", "", func(text string) error { return readCount(text, &l.count) })
	durationVar(f, &l.timeout, "timeout")
}

func (l *limit) check() error { return checkTimeout(l.timeout) }

func readCount(text string, count *uint) error {
	n, err := strconv.ParseInt(text, 10, strconv.IntSize)
	switch {
	case err != nil:
		return errors.New("needs a whole number")
	case n <= 0:
		return errors.New("must be positive")
	}
	*count = uint(n)
	return nil
}

// durationVar defines a flag for a duration, whose errors say more than package flag's.
func durationVar(f *flag.FlagSet, d *time.Duration, name string) {
	f.Func(name, "", func(text string) (err error) {
		if *d, err = time.ParseDuration(text); err == nil {
			return nil
		}
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return errors.New("needs a unit, such as 2s")
		}
		return errors.New("needs a duration, such as 2s or 1m30s")
	})
}

func checkTimeout(d time.Duration) error {
	if d < 0 {
		return usageError("-timeout must not be negative")
	}
	return nil
}
