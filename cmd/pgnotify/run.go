package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
)

// The exit statuses. A signal adds its number to exitSignal.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitSignal  = 128
)

// streams are what a command reads from and prints to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// A command is a word after pgnotify.
type command struct {
	name string
	help string
	run  func(ctx context.Context, args []string, s streams) error
}

func commands() []command {
	return []command{
		{"listen", listenHelp, runListen},
		{"notify", notifyHelp, runNotify},
		{"watch", watchHelp, runWatch},
		{"help", generalHelp, runHelp},
		{"version", versionHelp, runVersion},
	}
}

func findCommand(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

// run is the whole program, and returns its exit status. It ends soon after ctx.
func run(ctx context.Context, args []string, in io.Reader, out, err io.Writer) int {
	s := streams{in, out, err}
	name, failure := dispatch(ctx, args, s)
	return exit(ctx, s, name, failure)
}

// dispatch runs the command that args name.
func dispatch(ctx context.Context, args []string, s streams) (name string, err error) {
	if len(args) == 0 {
		return "", usageError("a command is missing: listen, notify or watch")
	}
	switch args[0] {
	case "-h", "-help", "--help":
		return "", runGeneralHelp(ctx, args, s)
	case "-version", "--version":
		return "", runVersion(ctx, nil, s)
	}
	c, ok := findCommand(args[0])
	if !ok {
		return "", unknownCommand(args[0])
	}
	err = c.run(ctx, args[1:], s)
	if errors.Is(err, errHelp) {
		err = s.print(c.help)
	}
	return c.name, err
}

// exit prints why a command failed, if it did, and returns the exit status.
func exit(ctx context.Context, s streams, name string, err error) int {
	var usage usageError
	switch {
	case err == nil, isUnread(err):
		return exitOK
	case errors.As(err, &usage):
		try := "pgnotify help"
		if name != "" && name != "help" {
			try += " " + name
		}
		fmt.Fprintf(s.err, "pgnotify: %s\nTry: %s\n", lines(err.Error()), try)
		return exitUsage
	case ctx.Err() != nil:
		return signalStatus(context.Cause(ctx))
	}
	fmt.Fprintf(s.err, "pgnotify: %s\n", lines(errorText(err)))
	return exitFailure
}

// signalStatus is the exit status for the end of the program's context.
func signalStatus(cause error) int {
	var i *interruption
	if errors.As(cause, &i) {
		return i.status()
	}
	return exitSignal + 2
}

// A usageError says what is wrong with the arguments.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// unknownCommand does not repeat a name that may be a DSN.
func unknownCommand(name string) error {
	if isPsqlFlag(name) {
		return errPsqlFlag
	}
	if strings.ContainsAny(name, ":/@= ") {
		return usageError("the first argument is not a command: listen, notify or watch")
	}
	return usagef("unknown command %q", name)
}

func (s streams) print(text string) error {
	if _, err := io.WriteString(s.out, text); err != nil {
		return &outputError{err}
	}
	return nil
}

// An outputError is an error of writing to stdout. It is distinct because a connection
// to a server may end with a broken pipe, too.
type outputError struct{ err error }

func (e *outputError) Error() string { return e.err.Error() }

func (e *outputError) Unwrap() error { return e.err }

// isUnread reports whether err says that nobody reads stdout any more.
func isUnread(err error) bool {
	var output *outputError
	return errors.As(err, &output) && isClosedPipe(output.err)
}

// runGeneralHelp is for a flag for help in the place of a command: -h, or -h COMMAND.
func runGeneralHelp(ctx context.Context, args []string, s streams) error {
	rest := args[1:]
	if len(rest) > 0 {
		if _, ok := findCommand(rest[0]); ok {
			rest = rest[1:]
		}
	}
	if isHost(args[0], rest) {
		return errPsqlFlag
	}
	return runHelp(ctx, args[1:len(args)-len(rest)], s)
}

// runHelp prints the help for a command, or in general.
func runHelp(_ context.Context, args []string, s streams) error {
	if len(args) == 0 {
		return s.print(generalHelp)
	}
	c, ok := findCommand(strings.TrimLeft(args[0], "-"))
	switch {
	case ok:
		return s.print(c.help)
	case args[0] == "-h", args[0] == "--help", args[0] == "-help":
		return s.print(generalHelp)
	}
	return unknownCommand(args[0])
}

// runVersion prints the module's version, as the go command has noted it.
func runVersion(_ context.Context, args []string, s streams) error {
	if len(args) > 0 {
		if args[0] == "-h" || args[0] == "--help" || args[0] == "-help" {
			return errHelp
		}
		return usageError("version takes no arguments")
	}
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return s.print("pgnotify " + version + "\n")
}
