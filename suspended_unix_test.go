//go:build unix

package pgnotify_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// The suspended is a program that makes a request when it is told to, by a line, and is
// stopped while it waits for the answer.

const (
	suspendedRole    = "suspended"
	suspendedDSN     = "PGNOTIFY_TEST_SUSPENDED_DSN"
	suspendedRequest = "PGNOTIFY_TEST_SUSPENDED_REQUEST"

	suspendedPatience = 2 * time.Second // HeartbeatTimeout and CancelTimeout
)

func init() { roles[suspendedRole] = runSuspended }

func runSuspended() int {
	if err := suspendedRequests[os.Getenv(suspendedRequest)](os.Getenv(suspendedDSN), bufio.NewReader(os.Stdin)); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// Each prints the session's process id, waits for a line, makes its request, and prints
// the process id of the session that it then has.
var suspendedRequests = map[string]func(dsn string, in *bufio.Reader) error{
	"heartbeat": suspendedHeartbeat,
	"cancel":    suspendedCancel,
}

func suspendedHeartbeat(dsn string, in *bufio.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return err
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		return err
	}
	l, err := pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		Heartbeat: -1, HeartbeatTimeout: suspendedPatience, Logger: quiet,
		OnEvent: func(e pgnotify.ListenerEvent) {
			if e.Kind == pgnotify.ListenerDisconnected && !errors.Is(e.Err, pgnotify.ErrClosed) {
				fmt.Println("lost:", e.Err)
			}
		},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	for i := range 2 {
		if i == 1 {
			_, _ = in.ReadString('\n')
		}
		health, err := l.Ping(ctx)
		if err != nil {
			return err
		}
		fmt.Println(health.PID)
	}
	return nil
}

func suspendedCancel(dsn string, in *bufio.Reader) error {
	all, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sql.Open("pgnotify", dsn+" cancel_timeout="+strconv.Itoa(int(suspendedPatience.Seconds())))
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(all)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, stop := context.WithCancel(all)
	defer stop()
	var pid int
	if err := conn.QueryRowContext(all, "select pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	fmt.Println(pid)
	go func() { // ends with its line
		_, _ = in.ReadString('\n')
		stop()
	}()
	if _, err := conn.ExecContext(ctx, longSleep); !errors.Is(err, context.Canceled) || pgnotify.IsDisconnect(err) {
		return fmt.Errorf("the query: %w", err)
	}
	if err := conn.QueryRowContext(all, "select pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	fmt.Println(pid)
	return nil
}

// L27: a process that is suspended for longer than HeartbeatTimeout while it waits for
// the answer to a heartbeat keeps its session: when it goes on, the answer is there. So
// does one that waits for a cancelled statement, for longer than CancelTimeout.
func TestSuspendedProcessKeepsItsSession(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		for request := range suspendedRequests {
			t.Run(m.name+"/"+request, func(t *testing.T) {
				t.Parallel()
				suspend(t, m, request)
			})
		}
	}
}

func suspend(t *testing.T, m mode, request string) {
	v, through := newValve(t, m.dsn)
	config, err := pgnotify.ParseConfig(m.dsn)
	if err != nil {
		t.Fatal(err)
	}
	through(config)
	target := fmt.Sprintf("%s port=%d", m.dsn, config.Port)
	if config.Hostaddr.IsValid() {
		target += " hostaddr=" + config.Hostaddr.String()
	} else {
		target += " host=" + config.Host
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t), exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+suspendedRole, suspendedRequest+"="+request,
		suspendedDSN+"="+target+" application_name="+quote(appName))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewReader(stdout)
	before, err := lines.ReadString('\n')
	if pid, e := strconv.Atoi(before[:max(len(before)-1, 0)]); err != nil || e != nil {
		t.Fatalf("it said %q: %v", before, err)
	} else if request == "cancel" {
		untilWaiting(t, open(t, dsn(t)), uint32(pid), "PgSleep")
	}
	asked := make(chan struct{}, 100)
	v.listen(func([]byte) {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	v.shut(false)
	_, _ = io.WriteString(stdin, "go\n")
	recv(t, asked)
	pid := cmd.Process.Pid
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("not stopped: %v, %v", status, err)
	}
	v.open()
	<-time.After(2 * suspendedPatience) // it is this long that it does not run
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || string(rest) != before {
		t.Errorf("it had session %q, and then said %q, %v", before, rest, err)
	}
}
