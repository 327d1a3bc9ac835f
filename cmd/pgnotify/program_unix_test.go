//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// launch starts the real program with pipes, and returns its lines. Its end is
// waited for.
func launch(t testing.TB, cmd *exec.Cmd) (out, errs <-chan string) {
	t.Helper()
	cmd.Env = environment(t)
	o, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	outs, errors := make(chan string, 1000), make(chan string, 1000)
	go scan(o, outs)   // ends with the process
	go scan(e, errors) // the same
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range outs {
		}
		for range errors {
		}
		_ = cmd.Wait()
	})
	return outs, errors
}

// Ctrl-C and SIGTERM end it in order, and then by the signal, so that shells see
// 130 and 143, and end their loops.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signal syscall.Signal
		args   []string
		ready  string
	}{
		{syscall.SIGINT, []string{"listen", "-json", newChannel()}, `"listening"`},
		{syscall.SIGTERM, []string{"listen", "-json", newChannel()}, `"listening"`},
		{syscall.SIGINT, []string{"watch", "-json"}, `"health"`},
		{syscall.SIGTERM, []string{"watch", "-json"}, `"health"`},
	} {
		t.Run(fmt.Sprint(c.args[0], " ", c.signal), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(testContext(t), program(t), c.args...)
			out, errs := launch(t, cmd)
			await(t, out, c.ready)
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			for range out {
			}
			for text := range errs {
				t.Errorf("on stderr: %s", text)
			}
			_ = cmd.Wait()
			if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != c.signal {
				t.Errorf("%v", cmd.ProcessState)
			}
		})
	}
}

// The shell's own view of it. In the background of a script SIGINT is ignored from
// the beginning: the status is the same.
func TestShell(t *testing.T) {
	t.Parallel()
	const background = `pgnotify watch -json >"$1" & watch=$!
		until grep -q health "$1"; do sleep 0.02; done
		kill -%s $watch; wait $watch; echo status $?`
	for _, c := range []struct{ name, script, want string }{
		{"interrupted", fmt.Sprintf(background, "INT"), "status 130\n"},
		{"terminated", fmt.Sprintf(background, "TERM"), "status 143\n"},
		{"help, not read", `{ pgnotify help; echo status $? >&2; } | true`, "status 0\n"},
		{"health, not read", `{ pgnotify watch -json -interval 1h; echo status $? >&2; } | head -n 1 >"$1"`, "status 0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(testContext(t), "sh", "-c", c.script, "sh", filepath.Join(t.TempDir(), "out"))
			cmd.Env = environment(t)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasSuffix(string(out), c.want) {
				t.Errorf("%q, want %q; %v", out, c.want, err)
			}
		})
	}
}

// Output that nobody reads holds up the clean end, but not the end.
func TestSignalWhileBlocked(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	cmd := exec.CommandContext(testContext(t), program(t), "listen", "-raw", channel)
	unread, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	cmd.Env, cmd.Stdout = environment(t), out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	errs := make(chan string, 10)
	go scan(stderr, errs) // ends with the process
	await(t, errs, "listening")
	notify(t, db, channel, strings.Repeat("x", 7000))
	if _, err := io.ReadFull(unread, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(testContext(t), `SELECT pg_notify($1, repeat('x', 7000) || i) FROM generate_series(1, 100) i`, channel); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range errs {
	}
	_ = cmd.Wait()
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGINT {
		t.Errorf("%v", cmd.ProcessState)
	}
}

// The end of who reads is no failure, and is seen before there is something to
// write.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errs, stderr := io.Pipe()
	lines := make(chan string, 10)
	go scan(errs, lines) // ends with run
	done := make(chan int, 1)
	go func() { // ends when nobody reads
		defer stderr.Close()
		done <- run(testContext(t), []string{"listen", "-d", dsn(t), newChannel()}, nil, out, stderr)
	}()
	await(t, lines, "listening")
	in.Close()
	select {
	case code := <-done:
		if code != exitOK {
			t.Errorf("status %d", code)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	for text := range lines {
		t.Errorf("on stderr: %s", text)
	}
}

// What happens when stdout cannot be written to depends on why.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{syscall.EPIPE, exitOK, ""},
		{errors.New("the disk is full"), exitFailure, "pgnotify: the disk is full\n"},
	} {
		for _, command := range []string{"watch", "listen"} {
			var errs strings.Builder
			args := []string{command, "-json", "-d", dsn(t)}
			if command == "listen" {
				args = append(args, newChannel())
			}
			code := run(testContext(t), args, nil, failingWriter{c.err}, &errs)
			if code != c.code || errs.String() != c.want {
				t.Errorf("%s: status %d, stderr %q", command, code, errs.String())
			}
		}
	}
}

// Only stdout's pipe may break: a server's is a failure.
func TestBrokenPipe(t *testing.T) {
	t.Parallel()
	for err, code := range map[error]int{
		&outputError{syscall.EPIPE}:                exitOK,
		fmt.Errorf("write tcp: %w", syscall.EPIPE): exitFailure,
	} {
		if got := exit(testContext(t), streams{err: io.Discard}, "notify", err); got != code {
			t.Errorf("%v: status %d", err, got)
		}
	}
}

// What was wanted has come, but could not be written.
func TestLastWriteFails(t *testing.T) {
	t.Parallel()
	db, channel := open(t), newChannel()
	errs, stderr := io.Pipe()
	lines := make(chan string, 10)
	go scan(errs, lines) // ends with run
	done := make(chan int, 1)
	go func() { // ends with the notification
		defer stderr.Close()
		args := []string{"listen", "-count=1", "-d", dsn(t), channel}
		done <- run(testContext(t), args, nil, failingWriter{errors.New("the disk is full")}, stderr)
	}()
	await(t, lines, "listening")
	notify(t, db, channel, "hello")
	await(t, lines, "pgnotify: the disk is full")
	if code := <-done; code != exitFailure {
		t.Errorf("status %d", code)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
