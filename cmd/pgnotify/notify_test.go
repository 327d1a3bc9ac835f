package main

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
)

func TestNotify(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", pgnotify.MaxPayload)
	for _, c := range []struct {
		name    string
		args    []string
		in      string
		payload string
	}{
		{name: "none"},
		{name: "word", args: []string{"hello"}, in: "not read", payload: "hello"},
		{name: "empty", args: []string{""}},
		{name: "escapes", args: []string{`a\n'"b`}, payload: `a\n'"b`},
		{name: "dash", args: []string{"--", "-5"}, payload: "-5"},
		{name: "stdin", args: []string{"-"}, in: "hello", payload: "hello"},
		{name: "stdin, with newline", args: []string{"-"}, in: "hello\n", payload: "hello"},
		{name: "stdin, lines", args: []string{"-"}, in: "two\nlines\n\n", payload: "two\nlines\n"},
		{name: "stdin, of Windows", args: []string{"-"}, in: "two\r\nlines\r\n", payload: "two\r\nlines"},
		{name: "stdin, empty", args: []string{"-"}},
		{name: "stdin, longest", args: []string{"-"}, in: longest + "\n", payload: longest},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			channel := newChannel()
			heard := hear(t, channel)
			code, out, errs := call(t, c.in, append([]string{"notify", "-d", dsn(t), channel}, c.args...)...)
			if code != exitOK || out+errs != "" {
				t.Fatalf("status %d, stdout %q, stderr %q", code, out, errs)
			}
			n, err := heard.WaitForNotification(testContext(t))
			if err != nil || n.Payload != c.payload {
				t.Errorf("%q, %v", n.Payload, err)
			}
		})
	}
}

// hear returns a session that listens.
func hear(t testing.TB, channel string) *pgnotify.Conn {
	t.Helper()
	conn, err := open(t).Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	pc, err := pgnotify.FromConn(conn)
	if err == nil {
		err = pc.Listen(testContext(t), channel)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

func TestNotifyTooLong(t *testing.T) {
	t.Parallel()
	for _, size := range []int{pgnotify.MaxPayload + 1, 3 * maxInput} {
		code, _, errs := call(t, strings.Repeat("x", size), "notify", "-d", "host=127.0.0.1 port=1", "jobs", "-")
		if code != exitFailure || !strings.Contains(errs, "payload too long") {
			t.Errorf("status %d, stderr %q", code, errs)
		}
	}
}

// A server that says nothing, and input that does not end, are given up in time.
func TestNotifyTimeout(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	server := "host=127.0.0.1 sslmode=disable port=" + port
	code, _, errs := call(t, "", "notify", "-timeout", "100ms", "-d", server, "jobs")
	if code != exitFailure || !strings.Contains(errs, "notify: no answer before the timeout") {
		t.Errorf("status %d, stderr %q", code, errs)
	}
	in, end := io.Pipe()
	defer end.Close()
	var out, problems strings.Builder
	code = run(testContext(t), []string{"notify", "-timeout", "100ms", "-d", server, "jobs", "-"}, in, &out, &problems)
	if code != exitFailure || !strings.Contains(problems.String(), "timeout") {
		t.Errorf("status %d, stderr %q", code, problems.String())
	}
}

// Ctrl-C while it waits for input, or for the server.
func TestNotifyInterrupted(t *testing.T) {
	t.Parallel()
	in, end := io.Pipe()
	defer end.Close()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	var out, errs strings.Builder
	code := run(ctx, []string{"notify", "-d", "host=127.0.0.1 port=1", "jobs", "-"}, in, &out, &errs)
	if code != exitSignal+2 || errs.String() != "" {
		t.Errorf("status %d, stderr %q", code, errs.String())
	}
}
