package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// Rows arrive as they are read: a result of any size needs the same memory. The
// test does not run besides others: it looks at what the process holds, garbage aside.
func TestRowsAreReadInConstantMemory(t *testing.T) {
	const limit = 16 << 20
	for i, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				count, width := 300_000, 200 // four times the limit
				if i == 0 && !active && !testing.Short() {
					count, width = 10_000_000, 1
				}
				s := take(t, open(t, m.dsn))
				if active {
					s.pc.Activate()
				}
				rows := mustQuery(t, s, fmt.Sprintf("select repeat('x', %d) from generate_series(1, %d)", width, count))
				before := heap()
				var n int
				var peak int64
				for ; rows.Next(); n++ {
					if n%(count/50) == 0 {
						peak = max(peak, heap())
					}
				}
				if err := rows.Err(); err != nil || n != count {
					t.Errorf("%d rows of %d, %v", n, count, err)
				}
				if grown := peak - before; grown > limit {
					t.Errorf("the heap grew by %d bytes", grown)
				}
			})
		}
	}
}

// mustQuery returns rows, closed at the end of the test. Their deadline is far
// away, for results that take a while.
func mustQuery(t *testing.T, db rowsQueryer, query string, args ...any) *sql.Rows {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		t.Fatalf("%.200s: %v", query, err)
	}
	t.Cleanup(func() { rows.Close() })
	return rows
}

// part is how many rows of a large result are read before the test, and
// manyRows, the large result, has four hundred times as many.
const (
	part     = 50_000
	manyRows = "select generate_series(1, 20000000)"
)

// readPart reads the first part of a large result and returns how long that took.
func readPart(t *testing.T, rows *sql.Rows) time.Duration {
	t.Helper()
	start := time.Now()
	for n := 1; n <= part; n++ {
		var got int
		if !rows.Next() {
			t.Fatalf("no row %d: %v", n, rows.Err())
		}
		if err := rows.Scan(&got); err != nil || got != n {
			t.Fatalf("row %d is %d, %v", n, got, err)
		}
	}
	return time.Since(start)
}

// wantPrompt checks that something took a time like that of the first part of a
// large result, and not hundreds of times as long, as the rest would.
func wantPrompt(t *testing.T, what string, took, first time.Duration) {
	t.Helper()
	t.Logf("%s took %v, the first part of the rows %v", what, took, first)
	if took > 10*first+time.Second { // all of the rows take many times as long
		t.Errorf("%s took too long", what)
	}
}

// wantIdle checks that a session is the same as before, idle, and works.
func wantIdle(t *testing.T, s *session) {
	t.Helper()
	if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
		t.Errorf("session %d became %d", s.pc.PID(), pid)
	}
	state := queryValue[string](t, open(t, dsn(t)), "select state from pg_stat_activity where pid = $1", s.pc.PID())
	if status := s.pc.TransactionStatus(); state != "idle" || status != pgnotify.TransactionIdle {
		t.Errorf("the session is %s, %v", state, status)
	}
}

// one stands in a query for the number 1, which may be an argument.
const (
	one      = "{1}"
	manyFrom = "select generate_series({1}, 20000000)"
)

// queries are the ways to ask for rows.
var queries = map[string]func(t *testing.T, ctx context.Context, s *session, query string) (*sql.Rows, error){
	"simple": func(_ *testing.T, ctx context.Context, s *session, query string) (*sql.Rows, error) {
		return s.QueryContext(ctx, strings.ReplaceAll(query, one, "1"))
	},
	"arguments": func(_ *testing.T, ctx context.Context, s *session, query string) (*sql.Rows, error) {
		return s.QueryContext(ctx, strings.ReplaceAll(query, one, "$1::int"), 1)
	},
	"prepared": func(t *testing.T, ctx context.Context, s *session, query string) (*sql.Rows, error) {
		st, err := s.PrepareContext(ctx, strings.ReplaceAll(query, one, "$1::int"))
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { st.Close() })
		return st.QueryContext(ctx, 1)
	},
}

// eachQuery runs a test with each way to ask for rows.
func eachQuery(t *testing.T, f func(t *testing.T, s *session, query func(ctx context.Context, query string) *sql.Rows)) {
	t.Helper()
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for name, q := range queries {
			t.Run(name, func(t *testing.T) {
				f(t, s, func(ctx context.Context, query string) *sql.Rows {
					t.Helper()
					rows, err := q(t, ctx, s, query)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { rows.Close() })
					return rows
				})
			})
		}
	})
}

// The rest of a SELECT is not read when its rows are closed.
func TestRowsClosedHalfway(t *testing.T) {
	eachQuery(t, func(t *testing.T, s *session, query func(context.Context, string) *sql.Rows) {
		rows := query(testContext(t), manyFrom)
		first := readPart(t, rows)
		start := time.Now()
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
		wantPrompt(t, "closing", time.Since(start), first)
		if rows.Next() || rows.Err() != nil {
			t.Errorf("after Close: %v", rows.Err())
		}
		if err := rows.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
		wantIdle(t, s)
	})
}

// K10: nor is it when the context ends.
func TestRowsCancelledHalfway(t *testing.T) {
	eachQuery(t, func(t *testing.T, s *session, query func(context.Context, string) *sql.Rows) {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		rows := query(ctx, manyFrom)
		first := readPart(t, rows)
		start := time.Now()
		cancel()
		for rows.Next() {
		}
		_ = rows.Close() // waits for the end of the statement
		wantPrompt(t, "cancelling", time.Since(start), first)
		if err := rows.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		wantIdle(t, s)
	})
}

// A row is all that QueryRow wants.
func TestQueryRowOfALargeResult(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		rows := mustQuery(t, s, manyRows)
		first := readPart(t, rows)
		rows.Close()
		start := time.Now()
		if n := queryValue[int](t, s, manyRows); n != 1 {
			t.Errorf("got %d", n)
		}
		wantPrompt(t, "QueryRow", time.Since(start), first)
		wantIdle(t, s)
	})
}

// database/sql says of rows that they are closed when Next returns false, so it
// must be possible to go on then.
func TestStatementAfterCancelledRows(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for range 10 {
			ctx, cancel := context.WithCancel(testContext(t))
			rows, err := s.QueryContext(ctx, manyRows)
			if err != nil {
				t.Fatal(err)
			}
			for n := 0; rows.Next(); n++ {
				if n == 1000 {
					cancel()
				}
			}
			if err := rows.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			mustExec(t, s, "select 1")
			cancel()
		}
	})
}

// Within a transaction a SELECT that is closed is read to its end: cancelling it
// would cost the transaction.
func TestRowsClosedWithinATransaction(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		m := newMarks(t)
		tx := mustBegin(t, s)
		m.mark(t, tx, "before")
		rows := mustQuery(t, tx, "select generate_series(1, 500000)")
		if !rows.Next() {
			t.Error(rows.Err())
		}
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
		if got := s.pc.TransactionStatus(); got != pgnotify.TransactionOpen {
			t.Errorf("the session is %v", got)
		}
		m.mark(t, tx, "after")
		mustCommit(t, tx)
		m.want(t, "after", "before")
		wantIdle(t, s)
	})
}

// The transaction is lost when its context has ended, so nothing more of it is
// read, even if the rows have another context.
func TestRowsOfATransactionThatTimedOut(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		var first time.Duration
		var start time.Time
		err := pgnotify.InTx(ctx, s.Conn, nil, func(tx *sql.Tx) error {
			rows := mustQuery(t, tx, manyRows)
			first = readPart(t, rows)
			start = time.Now()
			cancel()
			for rows.Next() {
			}
			return rows.Err()
		})
		wantPrompt(t, "InTx", time.Since(start), first)
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wantIdle(t, s)
	})
}

// What writes is complete when its rows are closed.
func TestWritingRowsClosedHalfway(t *testing.T) {
	const count = 50_000 // more than 1 MiB
	source := fmt.Sprintf("select 'mark' from generate_series(%s, %d)", one, count)
	const result = "mark, repeat('x', 50)"
	eachQuery(t, func(t *testing.T, s *session, query func(context.Context, string) *sql.Rows) {
		m := newMarks(t)
		insert := "insert into " + m.table + " "
		for name, text := range map[string]string{
			"insert":         insert + source + " returning " + result,
			"with insert":    "with i as (" + insert + source + " returning mark) select " + result + " from i",
			"with select":    "with i as (" + source + ") " + insert + "select * from i returning " + result,
			"comment":        "/* select */ " + insert + source + " returning " + result,
			"select comment": "--select\n" + insert + source + " returning " + result,
		} {
			rows := query(testContext(t), text)
			if !rows.Next() {
				t.Errorf("%s: %v", name, rows.Err())
			}
			if err := rows.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n := queryValue[int](t, m.server, "select count(*) from "+m.table); n != count {
				t.Errorf("%s: %d rows of %d are there", name, n, count)
			}
			mustExec(t, m.server, "truncate "+m.table)
		}
		wantIdle(t, s)
	})
}

// What fails in the rest that is skipped is the error of Close.
func TestErrorInSkippedRows(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		check := func(name string, db rowsQueryer, query string) {
			t.Helper()
			rows := mustQuery(t, db, query)
			if !rows.Next() {
				t.Errorf("%s: no row: %v", name, rows.Err())
			}
			if err := rows.Close(); serverError(t, err).Code != "22012" {
				t.Errorf("%s: %v", name, err)
			}
			if err := rows.Err(); serverError(t, err).Code != "22012" {
				t.Errorf("%s: Err: %v", name, err)
			}
		}
		check("select", s, "select 1 / (20000 - i) from generate_series(1, 30000) i")
		check("second result", s, "select generate_series(1, 100000); select 1 / 0")
		wantIdle(t, s)
		tx := mustBegin(t, s)
		check("select in a transaction", tx, "select 1 / (400000 - i) from generate_series(1, 500000) i")
		if got := s.pc.TransactionStatus(); got != pgnotify.TransactionFailed {
			t.Errorf("the session is %v", got)
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		wantIdle(t, s)
	})
}

// Several results come in their order, and may be left at any point.
func TestSeveralResults(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		const sizes = "select generate_series(1, 3); select generate_series(1, 100000); select where false; select generate_series(1, 2)"
		for leave := range 5 {
			rows := mustQuery(t, s, sizes)
			for i, want := range []int{3, 100_000, 0, 2} {
				if i == leave {
					break
				}
				n := 0
				for rows.Next() {
					n++
				}
				if more := rows.NextResultSet(); n != want || more != (i < 3) {
					t.Errorf("result %d has %d rows, and more come: %v, %v", i, n, more, rows.Err())
				}
			}
			if err := rows.Close(); err != nil || rows.Err() != nil {
				t.Errorf("left in result %d: %v, %v", leave, err, rows.Err())
			}
			wantIdle(t, s)
		}
		rows := mustQuery(t, s, "select 1; select 1 / (2000 - i) from generate_series(1, 3000) i")
		n := 0
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				n++
			}
		}
		if err := rows.Err(); n != 2000 || serverError(t, err).Code != "22012" {
			t.Errorf("%d rows, %v", n, err)
		}
		wantIdle(t, s)
	})
}

// Results that a context has cut off are not taken for all of them. Of a context that
// ends behind the last row of a result, before the next one, database/sql may forget
// that it was the context.
func TestContextEndsBetweenResults(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for i := range 30 {
			ctx, cancel := context.WithCancel(testContext(t))
			rows, err := s.QueryContext(ctx, "select 1; select 2")
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
			}
			cancel()
			if i%2 == 0 { // the next statement may be first to close the rows
				mustExec(t, s, "select 3")
			}
			until(t, "the rows are closed", func() bool { _, err := rows.Columns(); return err != nil })
			if more := rows.NextResultSet(); more || !errors.Is(rows.Err(), context.Canceled) {
				t.Errorf("run %d: more results: %v; %v", i, more, rows.Err())
			}
			wantIdle(t, s)
		}
	})
}

// A short rest is read, for a long one there is a cancel request, which needs a
// connection of its own.
func TestShortRestIsNotCancelled(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		var dials atomic.Int32
		s := take(t, open(t, m.dsn, func(c *pgnotify.Config) {
			c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return new(net.Dialer).DialContext(ctx, network, address)
			}
		}))
		for _, c := range []struct {
			query    string
			canceled bool
		}{{"select generate_series(1, 30000)", false}, {manyRows, true}, {"select 1", false}} {
			dials.Store(0)
			rows := mustQuery(t, s, c.query)
			rows.Next()
			if err := rows.Close(); err != nil || (dials.Load() > 0) != c.canceled {
				t.Errorf("%s: %s: %d connections, %v", m.name, c.query, dials.Load(), err)
			}
		}
	}
}

// Promise 2: the request that cuts rows short does not hit what comes next.
func TestStatementAfterRowsClosedHalfway(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for i := range 15 {
			// From 1 MiB on it is cancelled, and it may end by itself meanwhile.
			rows := mustQuery(t, s, fmt.Sprintf("select generate_series(1, %d)", 60_000+4000*i))
			rows.Next()
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
			mustExec(t, s, "select pg_sleep(0.001)")
		}
		wantIdle(t, s)
	})
}

// The context ends while the rows are being closed: whoever of them comes first,
// the session goes on.
func TestRowsClosedAndCancelled(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for i := range 15 {
			ctx, cancel := context.WithCancel(testContext(t))
			rows, err := s.QueryContext(ctx, manyRows)
			if err != nil {
				t.Fatal(err)
			}
			rows.Next()
			time.AfterFunc(time.Duration(i)*600*time.Microsecond, cancel)
			if err := rows.Close(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Close: %v", err)
			}
			if err := rows.Err(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Err: %v", err)
			}
			mustExec(t, s, "select 1")
			<-ctx.Done()
		}
		wantIdle(t, s)
	})
}
