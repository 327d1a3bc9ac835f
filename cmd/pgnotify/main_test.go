package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
	"github.com/pgnotify/pgnotify/internal/rig"
)

// appName marks the sessions of this run in pg_stat_activity.
var appName = fmt.Sprintf("pgnotify-cmd-test-%d", os.Getpid())

// TestMain fails when goroutines, or sessions on the server, are left behind.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, check := range []func() error{closeServer, rig.Lack, removeProgram, func() error { return goleak.Find() }} {
		if err := check(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// theServer is the PostgreSQL that the tests use, started by the first of them that
// asks for it.
var theServer struct {
	once   sync.Once
	server *pgserver.Server // nil for PGNOTIFY_TEST_DSN
	dsn    string
	err    error
}

// dsn returns the server's DSN, and skips the test where there is none and none
// was asked for.
func dsn(t testing.TB) string {
	t.Helper()
	theServer.once.Do(startServer)
	if theServer.err == nil {
		return theServer.dsn
	}
	rig.WithoutServer(t, theServer.err)
	return ""
}

func startServer() {
	theServer.dsn, theServer.err = rig.GivenDSN()
	if theServer.dsn != "" || theServer.err != nil {
		return
	}
	theServer.server, theServer.err = rig.StartServer(nil)
	if theServer.err == nil {
		theServer.dsn = theServer.server.DSN() + " application_name=" + appName
	}
}

// closeServer ends the server, and reports sessions that a test left on it.
func closeServer() error {
	if theServer.server == nil {
		return nil
	}
	defer theServer.server.Close()
	db, err := sql.Open("pgnotify", theServer.server.DSN())
	if err != nil {
		return err
	}
	defer db.Close()
	var left string
	for range 50 {
		err = db.QueryRow(`SELECT coalesce(string_agg(pid || ' ' || state || ' ' || query, E'\n'), '')
			FROM pg_stat_activity WHERE application_name = $1`, appName).Scan(&left)
		if err != nil || left == "" {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("sessions left on the server:\n%s", left)
}

// open returns a pool of sessions, closed when the test ends.
func open(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgnotify", dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newChannel() string { return fmt.Sprintf("c%x", rand.Uint64()) }

// notify sends notifications as another program would.
func notify(t testing.TB, db *sql.DB, channel string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := pgnotify.Notify(testContext(t), db, channel, p); err != nil {
			t.Fatal(err)
		}
	}
}

// terminate ends a session of the server.
func terminate(t testing.TB, db *sql.DB, pid any) {
	t.Helper()
	var done bool
	if err := db.QueryRowContext(testContext(t), `SELECT pg_terminate_backend($1)`, pid).Scan(&done); err != nil || !done {
		t.Fatalf("backend %v was not terminated: %v", pid, err)
	}
}

// call runs the program to its end, within this process.
func call(t testing.TB, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e strings.Builder
	code = run(testContext(t), args, strings.NewReader(in), &o, &e)
	return code, o.String(), e.String()
}

// A running program, within this process.
type running struct {
	t    testing.TB
	out  chan string // its lines
	errs chan string
	stop context.CancelFunc
	code chan int
}

// start starts the program. It is stopped when the test ends.
func start(t testing.TB, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(testContext(t))
	r := &running{t: t, out: make(chan string, 1000), errs: make(chan string, 1000), stop: stop, code: make(chan int, 1)}
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	go scan(outR, r.out)  // ends with the program
	go scan(errR, r.errs) // the same
	go func() {           // ends by stop
		defer errW.Close()
		defer outW.Close()
		r.code <- run(ctx, args, strings.NewReader(""), outW, errW)
	}()
	t.Cleanup(func() {
		stop()
		for range r.out { // until it has ended
		}
		for range r.errs {
		}
	})
	return r
}

func scan(from io.Reader, to chan<- string) {
	defer close(to)
	for lines := bufio.NewScanner(from); lines.Scan(); {
		to <- lines.Text()
	}
}

// exit waits for the end, and returns the exit status.
func (r *running) exit() int {
	r.t.Helper()
	select {
	case code := <-r.code:
		return code
	case <-time.After(30 * time.Second):
		r.t.Fatal("the program does not end")
	}
	panic("unreachable")
}

// line waits for the next line.
func line(t testing.TB, lines <-chan string) string {
	t.Helper()
	select {
	case text, ok := <-lines:
		if !ok {
			t.Fatal("the output has ended")
		}
		return text
	case <-time.After(30 * time.Second):
		t.Fatal("no line")
	}
	panic("unreachable")
}

// await waits for a line that contains text, and returns it.
func await(t testing.TB, lines <-chan string, text string) string {
	t.Helper()
	for {
		if l := line(t, lines); strings.Contains(l, text) {
			return l
		}
	}
}

// record waits for the next line, and reads it as JSON of this kind.
func record(t testing.TB, lines <-chan string, kind string) map[string]any {
	t.Helper()
	text := line(t, lines)
	var r map[string]any
	if err := json.Unmarshal([]byte(text), &r); err != nil || r["kind"] != kind {
		t.Fatalf("%s (%v), want the kind %q", text, err, kind)
	}
	if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r["time"])); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return r
}
