package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// TestExamples runs the examples that need a server, which go test only
// compiles because they have no Output comment.
func TestExamples(t *testing.T) {
	t.Setenv("DATABASE_URL", dsn(t))
	db := open(t, dsn(t))
	mustExec(t, db, "CREATE TABLE example_jobs (id text)")
	t.Cleanup(func() { mustExec(t, db, "DROP TABLE example_jobs") })
	mustExec(t, db, `CREATE TABLE example_accounts (owner text PRIMARY KEY, balance int CHECK (balance >= 0))`)
	t.Cleanup(func() { mustExec(t, db, "DROP TABLE example_accounts") })
	for _, example := range []func(){
		Example, ExampleFromConn, ExampleUnwrap, ExampleNewConnector, ExampleNoticeConn,
		ExampleNotificationConn, ExampleConn_Notifications, ExampleNotify_transaction,
		ExampleConn_ExecContext_cancelled, ExampleSessionConn,
	} {
		example()
	}
	for _, e := range []struct {
		example func()
		prints  string
	}{
		{ExampleInTx, "23514\nann 100\nbob 20\n"},
		{ExampleInSavepoint, "without the bonus: 23505\nann 70\nbob 50\n"},
		{ExampleCancelConn, "57014\n"},
	} {
		if got := printed(t, e.example); got != e.prints {
			t.Errorf("printed %q, expected %q", got, e.prints)
		}
	}
}

// printed returns what f prints. Output comments would do that, but without a
// server they fail.
func printed(t *testing.T, f func()) string {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = stdout }()
	f()
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// openSession is what most examples begin with: a pool and one session of it.
func openSession(ctx context.Context) (*sql.DB, *sql.Conn) {
	db, err := sql.Open("pgnotify", os.Getenv("DATABASE_URL"))
	check(err)
	conn, err := db.Conn(ctx)
	check(err)
	return db, conn
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func closeAll(closers ...io.Closer) {
	for _, c := range closers {
		check(c.Close())
	}
}

// A session hears a notice of its own, and a notification of another session.
func Example() {
	ctx := context.Background()
	db, err := sql.Open("pgnotify", os.Getenv("DATABASE_URL"))
	check(err)
	conn, err := db.Conn(ctx) // one session, taken out of the pool
	check(err)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	pc.AddNoticeHandler(func(n *pgnotify.Notice) { fmt.Println(n) })
	_, err = conn.ExecContext(ctx, "DROP TABLE IF EXISTS no_such_table")
	check(err)

	check(pc.Listen(ctx, "news"))
	check(pgnotify.Notify(ctx, db, "news", "hello"))
	for n, err := range pc.Notifications(ctx, pgnotify.StopAfter(1)) {
		check(err)
		fmt.Println(n.Channel, n.Payload)
	}
}

func ExampleFromConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)

	pc, err := pgnotify.FromConn(conn)
	check(err)
	fmt.Println("backend", pc.PID())
}

// Within Raw, Unwrap finds the session under wrappers too.
func ExampleUnwrap() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)

	check(conn.Raw(func(driverConn any) error {
		pc, err := pgnotify.Unwrap(driverConn)
		if err != nil {
			return err
		}
		return pc.Listen(ctx, "jobs")
	}))
}

func ExampleUnwrap_foreign() {
	_, err := pgnotify.Unwrap(os.Stdout)
	fmt.Println(errors.Is(err, pgnotify.ErrNotPgnotify))
	fmt.Println(err)
	// Output:
	// true
	// pgnotify: not a pgnotify connection: *os.File
}

func ExampleParseConfig() {
	config, err := pgnotify.ParseConfig("postgres://alice:secret@db.example/shop?sslmode=verify-full&cancel_timeout=10")
	check(err)
	fmt.Println(config.SSLMode, config.CancelTimeout)
	fmt.Println(config) // without the password
	// Output:
	// verify-full 10s
	// db.example:5432 user=alice dbname=shop
}

func ExampleParseConfig_notSupported() {
	_, err := pgnotify.ParseConfig("host=db.example channel_binding=require")
	fmt.Println(errors.Is(err, pgnotify.ErrNotSupported))
	// Output: true
}

// The notices of all sessions go to the log.
func ExampleNewConnector() {
	config, err := pgnotify.ParseConfig(os.Getenv("DATABASE_URL"))
	check(err)
	config.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) {
		slog.Log(context.Background(), n.Level(), "postgres", "backend", conn.PID(), "notice", n)
	}
	connector, err := pgnotify.NewConnector(config)
	check(err)
	db := sql.OpenDB(connector)
	defer closeAll(db)
	check(db.Ping())
}

// The standard library's way, without FromConn.
func ExampleNoticeConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)

	var remove func()
	check(conn.Raw(func(driverConn any) error {
		remove = driverConn.(pgnotify.NoticeConn).AddNoticeHandler(func(n *pgnotify.Notice) {
			fmt.Println(n)
		})
		return nil
	}))
	defer remove()
	_, err := conn.ExecContext(ctx, "DO $$ BEGIN RAISE NOTICE 'half way there'; END $$")
	check(err)
}

// A handler hears while the program does something else.
func ExampleNotificationConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	heard := make(chan pgnotify.Notification, 16)
	remove := pc.AddNotificationHandler(func(n pgnotify.Notification) { heard <- n })
	defer remove()
	check(pc.Listen(ctx, "example_prices"))
	check(pgnotify.Notify(ctx, db, "example_prices", "42"))
	n := <-heard
	fmt.Println(n.Channel, n.Payload)
}

// The session takes statements in the body of the loop.
func ExampleConn_Notifications() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	check(pc.Listen(ctx, "example_jobs"))
	check(pgnotify.Notify(ctx, db, "example_jobs", "1"))
	var gap *pgnotify.GapError
	for n, err := range pc.Notifications(ctx, pgnotify.Timeout(time.Minute), pgnotify.StopAfter(1)) {
		if errors.As(err, &gap) {
			fmt.Println("look at the whole table:", gap)
			continue
		}
		check(err)
		_, err = conn.ExecContext(ctx, "DELETE FROM example_jobs WHERE id = $1", n.Payload)
		check(err)
	}
}

// Who listens hears with the commit, and never of what was rolled back.
func ExampleNotify_transaction() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)

	tx, err := db.BeginTx(ctx, nil)
	check(err)
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, "INSERT INTO example_jobs (id) VALUES ($1)", "7")
	check(err)
	check(pgnotify.Notify(ctx, tx, "example_jobs", "7"))
	check(tx.Commit())
}

// A payload has a limit. It is checked before the server is asked, so this
// needs none.
func ExampleNotify_tooLong() {
	db, err := sql.Open("pgnotify", "host=db.example")
	check(err)
	defer closeAll(db)
	err = pgnotify.Notify(context.Background(), db, "jobs", strings.Repeat("x", 8000))
	fmt.Println(errors.Is(err, pgnotify.ErrPayloadTooLong))
	fmt.Println(err)
	// Output:
	// true
	// pgnotify: payload too long: 8000 bytes for channel "jobs", at most 7999 are possible
}

// The statement ends with its context, and the session stays.
func ExampleConn_ExecContext_cancelled() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := conn.ExecContext(short, "SELECT pg_sleep(60)")
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	var server *pq.Error
	if errors.As(err, &server) {
		fmt.Println(server.Code)
	}
	check(conn.PingContext(ctx))
}

// All of it or nothing: the error is the one of the statement that failed.
func ExampleInTx() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	openAccounts(ctx, db)

	err := pgnotify.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE example_accounts SET balance = balance + 1000 WHERE owner = 'bob'")
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE example_accounts SET balance = balance - 1000 WHERE owner = 'ann'")
		return err
	})
	var server *pq.Error
	if errors.As(err, &server) {
		fmt.Println(server.Code)
	}
	printAccounts(ctx, db)
	// It prints
	// 23514
	// ann 100
	// bob 20
}

// The transaction goes on when the part within the savepoint fails.
func ExampleInSavepoint() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	openAccounts(ctx, db)

	check(pgnotify.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE example_accounts
			SET balance = balance + CASE owner WHEN 'bob' THEN 30 ELSE -30 END`)
		if err != nil {
			return err
		}
		err = pgnotify.InSavepoint(ctx, tx, func() error {
			_, err := tx.ExecContext(ctx, "INSERT INTO example_accounts VALUES ('bob', 5)")
			return err
		})
		var server *pq.Error
		if errors.As(err, &server) {
			fmt.Println("without the bonus:", server.Code)
			return nil
		}
		return err
	}))
	printAccounts(ctx, db)
	// It prints
	// without the bonus: 23505
	// ann 70
	// bob 50
}

func openAccounts(ctx context.Context, db *sql.DB) {
	_, err := db.ExecContext(ctx, "TRUNCATE example_accounts; INSERT INTO example_accounts VALUES ('ann', 100), ('bob', 20)")
	check(err)
}

func printAccounts(ctx context.Context, db *sql.DB) {
	rows, err := db.QueryContext(ctx, "SELECT owner || ' ' || balance FROM example_accounts ORDER BY owner")
	check(err)
	defer rows.Close()
	for rows.Next() {
		var account string
		check(rows.Scan(&account))
		fmt.Println(account)
	}
	check(rows.Err())
}

// Another goroutine ends the statement, whose context goes on. Cancel does nothing
// as long as the server has not begun, so it is called until the statement is over.
func ExampleCancelConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	over := make(chan error, 1)
	go func() {
		_, err := conn.ExecContext(ctx, "SELECT pg_sleep(60)")
		over <- err
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err = <-over:
			running = false
		case <-tick.C:
			check(pc.Cancel(ctx))
		}
	}
	var server *pq.Error
	if errors.As(err, &server) {
		fmt.Println(server.Code)
	}
	check(conn.PingContext(ctx))
	// It prints 57014
}

func ExampleSessionConn() {
	ctx := context.Background()
	db, conn := openSession(ctx)
	defer closeAll(conn, db)
	pc, err := pgnotify.FromConn(conn)
	check(err)

	version, _ := pc.ParameterStatus("server_version")
	fmt.Println(version, pc.TransactionStatus())
}

func ExampleDisconnectError() {
	var err error = &pgnotify.DisconnectError{Reason: pgnotify.PeerClosed, Err: io.EOF, Sent: true}
	err = fmt.Errorf("book the seat: %w", err)

	var lost *pgnotify.DisconnectError
	if errors.As(err, &lost) && lost.Sent {
		fmt.Println("look whether the seat is booked:", lost.Reason)
	}
	fmt.Println(pgnotify.IsDisconnect(err))
	// Output:
	// look whether the seat is booked: the server closed the connection
	// true
}

func ExampleNotice() {
	n := &pgnotify.Notice{
		Severity: "NOTICE", SeverityNonLocalized: "NOTICE", Code: "00000",
		Message: `table "old" does not exist, skipping`, Hint: "Nothing was done.",
	}
	fmt.Println(n)
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	log.Log(context.Background(), n.Level(), "notice", "postgres", n)
	// Output:
	// NOTICE:  table "old" does not exist, skipping
	// HINT:  Nothing was done.
	// level=INFO msg=notice postgres.severity=NOTICE postgres.code=00000 postgres.message="table \"old\" does not exist, skipping" postgres.hint="Nothing was done."
}
