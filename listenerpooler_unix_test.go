//go:build unix

package pgnotify_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// startPgBouncer starts a PgBouncer in front of the test's server, with as many
// sessions there as size says, and returns a DSN to reach it by. If the test is over TLS,
// both sides of it are. Each line of more is a setting.
func startPgBouncer(t *testing.T, mode string, size int, more ...string) string {
	t.Helper()
	program := pgBouncer(t)
	config, err := pgnotify.ParseConfig(dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "pgnotify-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	port := freePort(t)
	target := fmt.Sprintf("host=%s port=%d user=%s", config.Host, config.Port, config.User)
	if config.Password != "" {
		target += " password='" + strings.ReplaceAll(config.Password, "'", "''") + "'"
	}
	settings := fmt.Sprintf(`[databases]
* = %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = %d
ignore_startup_parameters = extra_float_digits
%s
`, target, port, mode, size, strings.Join(more, "\n"))
	sslmode := " sslmode=disable"
	if overTLS(t) {
		sslmode = " sslmode=require"
		settings += poolerTLS(t, folder)
	}
	file := filepath.Join(folder, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, file)
	if os.Getuid() == 0 { // which PgBouncer refuses to be
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("PgBouncer said:\n%s", log.String())
		}
	})
	awaitPort(t, port)
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", port, config.User, config.Database) + sslmode
}

// pgBouncer returns the program that $PGNOTIFY_TEST_PGBOUNCER names, or the installed one.
func pgBouncer(t *testing.T) (program string) {
	t.Helper()
	program, err := exec.LookPath(cmp.Or(os.Getenv("PGNOTIFY_TEST_PGBOUNCER"), "pgbouncer"))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no PgBouncer: %v", err)
		}
		t.Skipf("no PgBouncer: %v", err)
	}
	return program
}

// poolerTLS returns settings for TLS on both sides, with a certificate in a folder.
func poolerTLS(t *testing.T, folder string) string {
	t.Helper()
	cert, key, err := newCertificate("pooler", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"cert": certPEM(cert), "key": keyPEM(key)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf(`server_tls_sslmode = require
client_tls_sslmode = require
client_tls_cert_file = %[1]s/cert
client_tls_key_file = %[1]s/key
`, folder)
}

// eachPooler runs a test over plain TCP and over TLS.
func eachPooler(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		if m.name != "unix" {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				f(t)
			})
		}
	}
}

// nobody is the user and the group of who needs no rights.
const nobody = 65534

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitPort(t *testing.T, port int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// probingWays are a Listener that probes each session, and one that finds out when to.
var probingWays = map[string]func(*pgnotify.ListenerConfig){
	"DeliveryProbe": probing,
	"default":       func(*pgnotify.ListenerConfig) {},
}

// L26: where notifications arrive, nothing is told, and nothing is wrong.
func TestPoolerInSessionMode(t *testing.T) { eachPooler(t, testPoolerInSessionMode) }

func testPoolerInSessionMode(t *testing.T) {
	for name, way := range probingWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var dialled collector[string]
			db, pooler := open(t, dsn(t)), startPgBouncer(t, "session", 2)
			l, events := listenBy(t, connector(t, pooler, dialing(&dialled)), way, func(c *pgnotify.ListenerConfig) {
				c.Heartbeat = 5 * time.Millisecond
			})
			channel := uniqueName("a")
			sub := subscribe(t, l, channel)
			beats(t, l, 20)
			notify(t, db, channel, "x")
			if e := event(t, sub); e.Payload != "x" {
				t.Errorf("%+v", e)
			}
			wantQuiet(t, events)
			if n := len(dialled.all()); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// L16, L26: the Listener tells that notifications will not arrive.
func TestPoolerInTransactionMode(t *testing.T) { eachPooler(t, testPoolerInTransactionMode) }

func testPoolerInTransactionMode(t *testing.T) {
	for name, way := range probingWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, events := listen(t, startPgBouncer(t, "transaction", 2), way, quickRetries, func(c *pgnotify.ListenerConfig) {
				c.HeartbeatTimeout = 500 * time.Millisecond
			})
			_, err := l.Subscribe(testContext(t), uniqueName("a"))
			if !errors.Is(err, pgnotify.ErrNotSupported) || errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			events.awaitError(t, pgnotify.ErrNotSupported)
			until(t, "Ping tells it", func() bool {
				_, err := l.Ping(testContext(t))
				return errors.Is(err, pgnotify.ErrNotSupported)
			})
		})
	}
}

// L26: while the session has a request under way, the pooler passes on what its process
// has. A probe is not to be taken in by that.
func TestBusyListenerBehindAPoolerInTransactionMode(t *testing.T) {
	eachPooler(t, func(t *testing.T) {
		pooler := startPgBouncer(t, "transaction", 2)
		for range 5 {
			l, events := listen(t, pooler, probing, quickRetries, func(c *pgnotify.ListenerConfig) {
				c.Heartbeat = 200 * time.Microsecond
				c.HeartbeatTimeout = 500 * time.Millisecond
			})
			_, err := l.Subscribe(testContext(t), uniqueName("a"))
			if !errors.Is(err, pgnotify.ErrNotSupported) || errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			events.awaitError(t, pgnotify.ErrNotSupported)
			l.Close()
		}
	})
}

// L3: behind a pooler the session comes to another process of the server, which
// does not listen. The heartbeat finds out, even where no probe can.
func TestPoolerSwapsTheProcess(t *testing.T) {
	t.Parallel()
	pooler := startPgBouncer(t, "transaction", 2)
	scarce := &scarce{Connector: connector(t, pooler), refuse: func(context.Context, int64) error { return errScarce }}
	l, events := listenBy(t, scarce, func(c *pgnotify.ListenerConfig) { c.Heartbeat = 20 * time.Millisecond })
	sub := subscribe(t, l, uniqueName("a"))
	beats(t, l, 3)                                          // they know the process
	tx, err := open(t, pooler).BeginTx(testContext(t), nil) // takes it
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if gap := events.await(t, pgnotify.ListenerGap, 1).Gap; gap.Cause != pgnotify.GapListenLost {
		t.Errorf("%v", gap)
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
		t.Errorf("%v", gap)
	}
}

// Two clients share one session of the server, in turn; their statements do not get
// mixed up.
func TestStatementsBehindAPooler(t *testing.T) {
	t.Parallel()
	pooler := startPgBouncer(t, "transaction", 1)
	one, two := open(t, pooler), open(t, pooler)
	one.SetMaxOpenConns(1)
	two.SetMaxOpenConns(1)
	for i := range 10 {
		if n := queryValue[int](t, one, "select $1::int + 1", i); n != i+1 {
			t.Errorf("%d, want %d", n, i+1)
		}
		if n := queryValue[int](t, two, "select $1::int - 1", i); n != i-1 {
			t.Errorf("%d, want %d", n, i-1)
		}
	}
}
