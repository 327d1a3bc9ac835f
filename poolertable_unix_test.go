//go:build unix

package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"os/exec"
	"sync"
	"testing"
)

// preparedStatements reports whether PgBouncer supports them, which it does since 1.21.
func preparedStatements(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command(pgBouncer(t), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return major > 1 || minor >= 21
}

// poolers are the ways to set up PgBouncer.
var poolers = []struct {
	name, mode string
	prepared   string // max_prepared_statements; empty: the default
}{
	{"session mode", "session", ""},
	{"transaction mode", "transaction", "0"},
	{"transaction mode, prepared statements", "transaction", "200"},
}

// poolerTable says what fails behind which pooler, with which settings of pgnotify: the
// server does not know the prepared statement (26000). It is the table of
// docs/poolers.md.
var poolerTable = map[string]map[string]string{ // by pooler, settings
	"session mode":                          {"": "", "statement_cache_size=0": "", "binary_parameters=yes": ""},
	"transaction mode":                      {"": "in a transaction, Prepare", "statement_cache_size=0": "Prepare", "binary_parameters=yes": "Prepare"},
	"transaction mode, prepared statements": {"": "", "statement_cache_size=0": "", "binary_parameters=yes": ""},
}

// O1, O2: two clients of PgBouncer at the same time never get each other's answers, nor
// write into each other's tables, and what fails is what the documentation says.
func TestPoolerTable(t *testing.T) {
	t.Parallel()
	for _, p := range poolers {
		for settings, fails := range poolerTable[p.name] {
			t.Run(p.name+"/"+settings, func(t *testing.T) {
				t.Parallel()
				supported := preparedStatements(t)
				var more []string
				switch {
				case supported && p.prepared != "":
					more = []string{"max_prepared_statements = " + p.prepared}
				case p.prepared != "" && p.prepared != "0":
					t.Skip("PgBouncer before 1.21 does not support prepared statements")
				}
				pooler := startPgBouncer(t, p.mode, 4, more...)
				one, two := newClient(t, pooler+" "+settings, "one"), newClient(t, pooler+" "+settings, "two")
				failed := ""
				for _, use := range []string{"query", "CALL", "in a transaction", "Prepare"} {
					var all sync.WaitGroup
					all.Go(func() { one.use(t, use) })
					all.Go(func() { two.use(t, use) })
					all.Wait()
					if one.failed || two.failed {
						if failed != "" {
							failed += ", "
						}
						failed += use
					}
					one.failed, two.failed = false, false
				}
				if failed != fails {
					t.Errorf("failed: %q, want %q", failed, fails)
				}
				one.wantOwn(t)
				two.wantOwn(t)
			})
		}
	}
}

// A poolerClient is a program that uses a pooler, in a way that shows whose statement was
// executed.
type poolerClient struct {
	*sql.DB
	name   string
	table  string // of the client's own
	called int    // how many rows it has inserted there
	failed bool   // with 26000
}

func newClient(t *testing.T, dsnOfPooler, name string) *poolerClient {
	admin := open(t, dsn(t))
	c := &poolerClient{DB: open(t, dsnOfPooler), name: name, table: uniqueName(name)}
	c.SetMaxOpenConns(2)
	mustExec(t, admin, "create table "+c.table+" (v text)")
	t.Cleanup(func() { mustExec(t, admin, "drop table "+c.table) })
	mustExec(t, admin, "create procedure p_"+c.table+"(text) language sql as 'insert into "+c.table+" values ($1)'")
	t.Cleanup(func() { mustExec(t, admin, "drop procedure p_"+c.table) })
	return c
}

// rounds of each use by two clients are some 2,000 statements outside a transaction.
const rounds = 340

// use runs many statements.
func (c *poolerClient) use(t *testing.T, how string) {
	ctx := testContext(t)
	switch how {
	case "query":
		for i := range rounds {
			c.query(ctx, t, c, i)
		}
	case "CALL": // which makes the session forget its statements
		for range rounds {
			if _, err := c.ExecContext(ctx, "call p_"+c.table+"($1)", c.name); err != nil {
				t.Error(err)
			}
			c.called++
		}
	case "in a transaction":
		c.besideAnother(ctx, t, rounds/5, func(conn *sql.Conn, i int) error {
			tx, err := conn.BeginTx(ctx, nil)
			if err == nil {
				c.query(ctx, t, tx, i)
				_ = tx.Rollback()
			}
			return err
		})
	case "Prepare":
		var st *sql.Stmt
		c.besideAnother(ctx, t, rounds, func(conn *sql.Conn, i int) (err error) {
			if st == nil {
				st, err = conn.PrepareContext(ctx, "select $1::text || '"+c.name+"'")
			}
			if err == nil {
				c.want(t, fmt.Sprint(i, c.name), st.QueryRowContext(ctx, i))
			}
			return err
		})
		if st != nil {
			st.Close()
		}
	}
}

// besideAnother runs f a number of times on one session, and keeps a session of the server
// busy meanwhile every other time, so that the pooler has to take another one.
func (c *poolerClient) besideAnother(ctx context.Context, t *testing.T, times int, f func(conn *sql.Conn, i int) error) {
	conn, err := c.Conn(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	for i := range times {
		var other *sql.Tx
		if i%2 == 1 {
			if other, err = c.BeginTx(ctx, nil); err != nil {
				t.Error(err)
				return
			}
		}
		if err := f(conn, i); err != nil {
			t.Error(err)
		}
		if other != nil {
			_ = other.Rollback()
		}
	}
}

// query runs a query whose statement is kept and one whose statement is not.
func (c *poolerClient) query(ctx context.Context, t *testing.T, db queryer, i int) {
	c.want(t, fmt.Sprint(i, c.name), db.QueryRowContext(ctx, "select $1::text || '"+c.name+"'", i))
	c.want(t, fmt.Sprint(i, "\n", c.name), db.QueryRowContext(ctx, "select $1::text || E'\\n"+c.name+"'", i))
}

func (c *poolerClient) want(t *testing.T, want string, row *sql.Row) {
	var got string
	if err := row.Scan(&got); err != nil {
		if code := serverError(t, err).Code; code != "26000" && (code != "25P02" || !c.failed) {
			t.Error(err)
		}
		c.failed = true
	} else if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// wantOwn fails the test unless the client's table has what the client inserted.
func (c *poolerClient) wantOwn(t *testing.T) {
	rows := queryValue[int](t, open(t, dsn(t)), "select count(*) from "+c.table+" where v = $1", c.name)
	if rows != c.called {
		t.Errorf("%s has inserted %d rows, and there are %d", c.name, c.called, rows)
	}
}
