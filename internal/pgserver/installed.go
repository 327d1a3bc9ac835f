package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// startTries is how many ports are tried, as a free one may be taken in between.
const startTries = 5

func startInstalled(ctx context.Context, opts Options) (*Server, error) {
	bin, err := findBin(os.Getenv("PATH"), binPatterns, opts.Version)
	if err != nil {
		return nil, err
	}
	return startCluster(ctx, Installed, bin, opts)
}

// startCluster starts a server of the programs in bin.
func startCluster(ctx context.Context, source Source, bin string, opts Options) (*Server, error) {
	c := &cluster{source: source, bin: bin, config: maps.Clone(opts.Config)}
	return c.serve(ctx, c.create)
}

// serve makes the cluster's files by create and starts its server.
func (c *cluster) serve(ctx context.Context, create func(context.Context) error) (*Server, error) {
	err := create(ctx)
	if err == nil {
		err = c.startOnFreePort(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.bin, err), c.remove())
	}
	s := &Server{source: c.source, dsn: c.dsn(), host: loopback, port: c.port, origin: c.bin, version: c.version, backend: c}
	if unixSockets {
		s.socketDir = c.folder.path
	}
	return s, nil
}

// A cluster is a server in a private folder, run as our child.
type cluster struct {
	source  Source
	bin     string
	config  map[string]string
	account *account
	folder  *folder // holds data, server.log and the socket
	port    int
	version string
	process *process     // nil before the first start
	running atomic.Int64 // the postmaster's pid, 0 if it is stopped
}

var _ backend = (*cluster)(nil)

// create makes the folder and the database files.
func (c *cluster) create(ctx context.Context) error {
	err := c.createFolder()
	if err != nil {
		return err
	}
	if err = ctx.Err(); err != nil {
		return err
	}
	// It takes a second. Interrupted, it would leave shared memory behind.
	err = c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust",
		"--no-sync", "--locale=C", "--encoding=UTF8")
	if err != nil {
		return err
	}
	if err = ctx.Err(); err != nil {
		return err
	}
	return c.configure()
}

func (c *cluster) createFolder() (err error) {
	if c.account, err = serverAccount(); err != nil {
		return err
	}
	c.folder, err = newFolder(folderBases(), c.account, "", c.canRunIn)
	return err
}

// canRunIn reports whether the server's account can enter dir and run bin there.
func (c *cluster) canRunIn(dir string) error {
	cmd := exec.Command(filepath.Join(c.bin, "initdb"), "--version")
	cmd.Dir = dir
	c.account.run(cmd)
	p, err := launch(cmd)
	if err != nil {
		return fmt.Errorf("in %s: %w", dir, err)
	}
	<-p.done
	return p.err
}

// run runs one of the programs to its end.
func (c *cluster) run(name string, args ...string) error {
	p, err := c.launch(exec.Command(filepath.Join(c.bin, name), args...))
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("%s: %w%s", name, p.err, c.logTail())
	}
	return nil
}

// launch starts cmd in the folder, as the account, with its output in the log.
func (c *cluster) launch(cmd *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd.Dir = c.folder.path
	cmd.Env = serverEnv(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	c.account.run(cmd)
	return launch(cmd)
}

// serverEnv returns env without the variables that are meant for clients, some of
// which the server obeys as well, and with messages in English.
func serverEnv(env []string) []string {
	env = slices.DeleteFunc(env, func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_")
	})
	return append(env, "LC_ALL=C")
}

// configure writes who may connect, and the settings to the end of the file that
// initdb made, where they win and ALTER SYSTEM can still change them.
func (c *cluster) configure() error {
	hba := "host all,replication all " + loopback + "/32 trust\n"
	if unixSockets {
		hba += "local all,replication all trust\n"
	}
	if err := os.WriteFile(filepath.Join(c.data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	return c.addSettings()
}

func (c *cluster) addSettings() error {
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, c.settings())
	return errors.Join(err, f.Close())
}

func (c *cluster) settings() string {
	settings := throwaway(c.config, c.name())
	settings["listen_addresses"] = loopback
	settings["unix_socket_directories"] = ""
	if unixSockets {
		settings["unix_socket_directories"] = c.folder.path
	}
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, quote.Replace(settings[name]))
	}
	return b.String()
}

// throwaway returns the settings of every server of ours: quick rather than
// durable, then config, then the name by which it is recognised and a log that
// goes where we look for it. The port is set elsewhere.
func throwaway(config map[string]string, cluster string) map[string]string {
	settings := map[string]string{
		"fsync":              "off",
		"full_page_writes":   "off",
		"synchronous_commit": "off",
	}
	maps.Copy(settings, config)
	delete(settings, "port")
	delete(settings, "listen_addresses")
	delete(settings, "unix_socket_directories")
	settings["cluster_name"] = cluster
	settings["logging_collector"] = "off"
	return settings
}

// startOnFreePort starts the server for the first time.
func (c *cluster) startOnFreePort(ctx context.Context) (err error) {
	for range startTries {
		if c.port, err = freePort(); err != nil {
			return err
		}
		err = c.start(ctx)
		if err == nil || !strings.Contains(err.Error(), "could not create any TCP/IP sockets") {
			return err
		}
	}
	return err
}

func (c *cluster) start(ctx context.Context) error {
	p, err := c.launch(exec.Command(filepath.Join(c.bin, "postgres"), "-D", c.data(), "-p", strconv.Itoa(c.port)))
	if err != nil {
		return err
	}
	c.process = p
	c.running.Store(int64(p.cmd.Process.Pid))
	c.version, err = awaitAnswer(ctx, c.dsn(), c.name(), func() error {
		if p.ended() {
			return fmt.Errorf("postgres ended: %v", p.err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, c.logTail())
	}
	return nil
}

func (c *cluster) stop(ctx context.Context, mode StopMode) error {
	p := c.process
	if p == nil {
		return nil
	}
	if err := signalStop(c.bin, p.cmd.Process, mode); err != nil && !p.ended() && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	c.cleanUpCrash()
	c.running.Store(0)
	return nil
}

func (c *cluster) remove() error {
	c.end()
	return c.folder.remove()
}

// end stops the postmaster, by whatever it takes.
func (c *cluster) end() {
	for _, mode := range []StopMode{Fast, Immediate} {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		err := c.stop(ctx, mode)
		cancel()
		if err == nil {
			return
		}
	}
	_ = c.process.cmd.Process.Kill() // it fails if the process has just ended
	<-c.process.done
	c.cleanUpCrash()
	c.running.Store(0)
}

// cleanUpCrash waits for the children of a postmaster that was killed, and has
// the shared memory removed that it left. A server does that when it starts on
// the same data, and refuses to as long as there are such children.
func (c *cluster) cleanUpCrash() {
	for range 50 {
		if _, err := os.Stat(filepath.Join(c.data(), "postmaster.pid")); err != nil {
			return // it ended in order
		}
		_ = c.run("postgres", "--single", "-D", c.data(), "postgres") // without input, it ends at once
	}
}

func (c *cluster) pid() int { return int(c.running.Load()) }

func (c *cluster) data() string { return filepath.Join(c.folder.path, "data") }

func (c *cluster) log() string { return filepath.Join(c.folder.path, "server.log") }

// name returns the cluster_name, which is as unique as the folder.
func (c *cluster) name() string { return filepath.Base(c.folder.path) }

func (c *cluster) dsn() string { return ourDSN(c.port, "", c.config) }

// logTail returns the last lines of the log, for an error.
func (c *cluster) logTail() string {
	log, err := os.ReadFile(c.log())
	if err != nil {
		return ""
	}
	return lastLines(log)
}

// lastLines returns the last ten lines of log, each on a line of its own, or "".
func lastLines(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	lines = lines[max(0, len(lines)-10):]
	if len(lines[len(lines)-1]) == 0 {
		return ""
	}
	return "; the log ends with:\n" + string(bytes.Join(lines, []byte("\n")))
}
