package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// TestDisconnectExamples runs the examples of DisconnectConn and Config.OnDisconnect.
func TestDisconnectExamples(t *testing.T) {
	t.Setenv("DATABASE_URL", dsn(t))
	for _, e := range []struct {
		example func()
		prints  string
	}{
		{ExampleDisconnectConn, "terminated by an administrator 57P01\n"},
		{ExampleConn_WatchContext, "stopped: terminated by an administrator\n"},
		{ExampleConn_WatchContext_released, "true\n"},
		{ExampleConn_SyscallConn, "registered: true\nafter its end: true\n"},
		{ExampleConfig_onDisconnect, "lost: terminated by an administrator\nthe pool goes on: <nil>\n"},
	} {
		if got := printed(t, e.example); got != e.prints {
			t.Errorf("printed %q, expected %q", got, e.prints)
		}
	}
}

// endSession stands for what may happen to a session.
func endSession(ctx context.Context, db *sql.DB, pid uint32) {
	_, err := db.ExecContext(ctx, "SELECT pg_terminate_backend($1)", pid)
	check(err)
}

// A session that does nothing hears that it is lost, and why. Instead of the server
// it could also have been the program that ended it: DisconnectErr tells.
func ExampleDisconnectConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	go endSession(ctx, db, pc.PID())
	select {
	case <-pc.Disconnected():
	case <-time.After(time.Minute): // or whatever else there is to wait for
	}
	var lost *pgnotify.DisconnectError
	var server *pq.Error
	if err := pc.DisconnectErr(); errors.As(err, &lost) && errors.As(err, &server) {
		fmt.Println(lost.Reason, server.Code)
	}
	// It prints terminated by an administrator 57P01
}

// What may be done only as long as the session lives, because it has a lock, gets
// a context that ends with it.
func ExampleConn_WatchContext() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	watched, stop := pc.WatchContext(ctx) // before the lock is taken
	defer stop()
	_, err = conn.ExecContext(watched, "SELECT pg_advisory_lock(4711)")
	check(err)
	go endSession(ctx, db, pc.PID())

	work := func(ctx context.Context) { <-ctx.Done() } // sends mails, runs other statements ...
	work(watched)
	var lost *pgnotify.DisconnectError
	if errors.As(context.Cause(watched), &lost) {
		fmt.Println("stopped:", lost.Reason)
	}
	// It prints stopped: terminated by an administrator
}

// A context of WatchContext ends with the session's return to the pool, too.
func ExampleConn_WatchContext_released() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	watched, stop := pc.WatchContext(ctx)
	defer stop()
	closeAll(conn)
	<-watched.Done()
	fmt.Println(errors.Is(context.Cause(watched), pgnotify.ErrReleased))
	// It prints true
}

// A poller of one's own, epoll for example, gets the session's descriptor. It tells
// that there is something to read, which may be the end or not, and which is not for
// the poller to read: a ping finds out.
func ExampleConn_SyscallConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	socket, err := pc.SyscallConn()
	check(err)
	registered := false
	check(socket.Control(func(fd uintptr) { registered = true })) // here fd is sure to be the session's
	fmt.Println("registered:", registered)

	closeAll(conn) // remove fd from the poller before
	_, err = pc.SyscallConn()
	fmt.Println("after its end:", errors.Is(err, pgnotify.ErrReleased))
	// It prints
	// registered: true
	// after its end: true
}

// One function hears of all sessions of a pool, idle ones too. The pool itself
// replaces them.
func ExampleConfig_onDisconnect() {
	ctx := context.Background()
	config, err := pgnotify.ParseConfig(os.Getenv("DATABASE_URL"))
	check(err)
	heard := make(chan pgnotify.DisconnectReason, 1)
	config.OnDisconnect = func(conn *pgnotify.Conn, err *pgnotify.DisconnectError) {
		if err.Reason != pgnotify.ClosedLocally { // that is the pool itself, at the end
			heard <- err.Reason
		}
	}
	connector, err := pgnotify.NewConnector(config)
	check(err)
	db := sql.OpenDB(connector)
	defer closeAll(db)
	var pid uint32
	check(db.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid)) // whose session is idle now

	other, conn := openSession(ctx)
	defer closeAll(conn, other)
	endSession(ctx, other, pid)
	fmt.Println("lost:", <-heard)
	fmt.Println("the pool goes on:", db.PingContext(ctx))
	// It prints
	// lost: terminated by an administrator
	// the pool goes on: <nil>
}
