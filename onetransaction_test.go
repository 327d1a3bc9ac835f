package pgnotify_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A tenant is a client of a turnPooler, whose other client inserts into a table of its
// own.
type tenant struct {
	*sql.DB
	pooler    *turnPooler
	keeps     bool   // statements
	own       string // a table with a column of text
	procedure string // inserts into it
}

// eachTenant runs a test with each setting that decides how queries are sent.
func eachTenant(t *testing.T, f func(t *testing.T, n *tenant)) {
	t.Parallel()
	for _, settings := range []string{"", "statement_cache_size=0", "binary_parameters=yes"} {
		t.Run(settings, func(t *testing.T) {
			t.Parallel()
			admin := open(t, dsn(t))
			n := &tenant{keeps: settings == "", own: uniqueName("own"), procedure: uniqueName("p")}
			other := uniqueName("other")
			for _, table := range []string{n.own, other} {
				mustExec(t, admin, "create table "+table+" (v text)")
				t.Cleanup(func() { mustExec(t, admin, "drop table "+table) })
			}
			mustExec(t, admin, "create procedure "+n.procedure+"(text) language sql as 'insert into "+n.own+" values ($1)'")
			t.Cleanup(func() { mustExec(t, admin, "drop procedure "+n.procedure) })
			n.pooler = startTurnPooler(t, "insert into "+other+" values ($1) returning 'wrong'")
			n.DB = open(t, n.pooler.fake.DSN()+" "+settings)
			n.SetMaxOpenConns(1)
			mustPing(t, n.DB)
			f(t, n)
			if n := queryValue[int](t, admin, "select count(*) from "+other); n != 0 {
				t.Errorf("%d rows in the other client's table", n)
			}
		})
	}
}

// transactions returns how many of the server f takes.
func (n *tenant) transactions(f func()) int64 {
	before := n.pooler.transactions.Load()
	f()
	return n.pooler.transactions.Load() - before
}

// want fails the test unless f, which must not fail, takes one transaction.
func (n *tenant) want(t *testing.T, name string, f func() error) {
	t.Helper()
	count := n.transactions(func() {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	if count != 1 {
		t.Errorf("%s: %d transactions", name, count)
	}
}

// O1, O2: a query is one transaction on the server, so that a pooler runs no other
// client's statement in its place. A kept statement that the server has lost is tried
// again, which is one transaction more.
func TestQueryIsOneTransaction(t *testing.T) {
	eachTenant(t, func(t *testing.T, n *tenant) {
		long := strings.Repeat("x", 20_000)
		for name, c := range map[string]struct {
			query string
			arg   any
			want  string
			kept  bool
		}{
			"argument":      {"select $1::text", "own", "own", true},
			"columns":       {"select $1::int", 5, "5", true},
			"long argument": {"select $1::text as long", long, long, true},
			"INSERT":        {"insert into " + n.own + " values ($1) returning 'own'", long, "own", true},
			"escape":        {`select $1::text || E'\n'`, "own", "own\n", false},
			"present time":  {"select $1::text from (select 'now'::timestamptz) t", "own", "own", false},
			"long query":    {"select $1::text -- " + long, "own", "own", false},
			"longer query":  {"select $1::text -- " + long + long, "own", "own", false},
			"EXPLAIN":       {"explain (costs off) select where $1::text = 'own'", "other", "Result", false},
		} {
			for use := range 3 {
				var got string
				var err error
				count := n.transactions(func() { err = n.QueryRowContext(testContext(t), c.query, c.arg).Scan(&got) })
				if err != nil || got != c.want {
					t.Errorf("%s, use %d: %.100q, %v", name, use, got, err)
				}
				want := int64(1)
				if use > 0 && c.kept && n.keeps {
					want = 2
				}
				if count != want {
					t.Errorf("%s, use %d: %d transactions, want %d", name, use, count, want)
				}
			}
		}
	})
}

// O2: so is whatever else needs no rows.
func TestCallIsOneTransaction(t *testing.T) {
	eachTenant(t, func(t *testing.T, n *tenant) {
		ctx := testContext(t)
		channel := uniqueName("a")
		n.want(t, "CALL", func() error { _, err := n.ExecContext(ctx, "call "+n.procedure+"($1)", "call"); return err })
		n.want(t, "INSERT", func() error {
			_, err := n.ExecContext(ctx, "insert into "+n.own+" values ($1)", strings.Repeat("x", 20_000))
			return err
		})
		n.want(t, "Notify", func() error { return pgnotify.Notify(ctx, n, channel, "x") })
		n.want(t, "several", func() error { _, err := n.ExecContext(ctx, "select 1; select 2"); return err })
		n.want(t, "Ping", func() error { return n.PingContext(ctx) })
		n.want(t, "transaction", func() error {
			return pgnotify.InTx(ctx, n, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
				for _, query := range []string{"call " + n.procedure + "($1)", "insert into " + n.own + " values ($1)"} {
					if _, err := tx.ExecContext(ctx, query, "in a transaction"); err != nil {
						return err
					}
				}
				return pgnotify.Notify(ctx, tx, channel, "y")
			})
		})
		if got, want := queryValue[int](t, n, "select count(*) from "+n.own), 4; got != want {
			t.Errorf("%d rows, want %d", got, want)
		}
	})
}

// O2: a statement of the program's own is never another client's. This pooler does not
// know prepared statements, so the server does not know it either.
func TestPreparedStatementIsNoOtherClients(t *testing.T) {
	eachTenant(t, func(t *testing.T, n *tenant) {
		ctx := testContext(t)
		var st *sql.Stmt
		n.want(t, "Prepare", func() (err error) { st, err = n.PrepareContext(ctx, "insert into "+n.own+" values ($1)"); return err })
		count := n.transactions(func() {
			if _, err := st.ExecContext(ctx, "x"); serverError(t, err).Code != "26000" {
				t.Error(err)
			}
		})
		if count != 1 {
			t.Errorf("Exec: %d transactions", count)
		}
		n.want(t, "Close", st.Close)
	})
}

// O1: a request that fails, on either side, leaves the server's session to others, and
// nothing unread to the next request.
func TestFailureIsOneTransaction(t *testing.T) {
	eachTenant(t, func(t *testing.T, n *tenant) {
		for name, c := range map[string]struct {
			query string
			args  []any
		}{
			"syntax":             {"selct $1", []any{1}},
			"no such table":      {"insert into nowhere values ($1)", []any{1}},
			"too many arguments": {"select $1::int", []any{1, 2}},
			"too few arguments":  {"select $1::int, $2::int", []any{1}},
			"not to be encoded":  {"select $1::text", []any{unencodable{}}},
			"not to be read":     {"select $1::int", []any{"x"}},
			"execution":          {"select 1 / $1::int", []any{0}},
			"CALL":               {"call " + n.procedure + "($1)", []any{1, 2}},
		} {
			for range 2 {
				var err error
				count := n.transactions(func() { _, err = n.ExecContext(testContext(t), c.query, c.args...) })
				if err == nil || count > 1 && !n.keeps || count > 2 {
					t.Errorf("%s: %d transactions, %v", name, count, err)
				}
				if got := queryValue[string](t, n, "select $1::text || E'\\n'", name); got != name+"\n" {
					t.Errorf("after %s: %q", name, got)
				}
			}
		}
	})
}

// An unencodable passes database/sql's checks as a value of a type that lib/pq does not
// know.
type unencodable struct{}

// O1: what connecting and listening ask is in simple queries, which are one transaction
// each.
func TestSessionsOwnRequestsAreOneTransaction(t *testing.T) {
	t.Parallel()
	pooler := startTurnPooler(t, "select 'wrong', $1::text")
	l, events := listen(t, pooler.fake.DSN()+" target_session_attrs=read-write", func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
	events.await(t, pgnotify.ListenerConnected, 1)
	ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	_, _ = l.Subscribe(ctx, uniqueName("a")) // in vain: nothing arrives through this pooler
	_, _ = l.Ping(ctx)
	l.Close()
	if n := len(pooler.messages.all()); n < 2 {
		t.Errorf("%d messages", n)
	}
	for _, typ := range pooler.messages.all() {
		if typ != "Q" {
			t.Errorf("message %q", typ)
		}
	}
}
