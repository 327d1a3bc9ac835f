package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// O3, O4: lib/pq does COPY FROM STDIN through Prepare in a transaction only, and no COPY
// TO STDOUT. Any other is an error, at once, even where no context could end it, and
// costs neither the session nor an answer.
func TestOtherFormsOfCopyAreErrors(t *testing.T) {
	const (
		from = "COPY from stdin failed: COPY FROM STDIN is supported by lib/pq only as a statement prepared in a transaction"
		to   = "COPY TO STDOUT is not supported by lib/pq: its output was discarded"
	)
	ctx := context.Background()
	ways := map[string]func(s *session, query string) error{
		"exec":   func(s *session, query string) error { _, err := s.ExecContext(ctx, query); return err },
		"read":   func(s *session, query string) error { return drain(s.QueryContext(ctx, query)) },
		"closed": func(s *session, query string) error { return closeRows(s.QueryContext(ctx, query)) },
		"prepared": func(s *session, query string) error {
			if strings.Contains(query, ";") {
				return drain(s.QueryContext(ctx, query))
			}
			st, err := s.PrepareContext(ctx, "/* /* nests */ for the server only */ "+query)
			if err != nil {
				return err
			}
			defer st.Close()
			if _, err := st.ExecContext(ctx); !errors.Is(err, pgnotify.ErrNotSupported) {
				return err
			}
			return drain(st.QueryContext(ctx))
		},
		"in a transaction": func(s *session, query string) error {
			tx, err := s.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			_, err = tx.ExecContext(ctx, query)
			return err
		},
	}
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		mustExec(t, s, "drop table if exists pg_temp.none; create temp table none (a int)")
		for query, want := range map[string]string{
			"copy none from stdin":                                      from,
			"select 1; copy none from stdin":                            from,
			"copy none from stdin; select 1":                            from,
			"copy none from stdin; copy none from stdin":                from,
			"copy none from stdin binary":                               from,
			"copy (select generate_series(1, 5)) to stdout":             to,
			"select 1; copy (select 1) to stdout":                       to,
			"copy (select 1) to stdout; select 1; copy none from stdin": "",
			"select 1; copy (select 1) to stdout binary; select 1 where false; copy (select 2) to stdout": to,
		} {
			for name, f := range ways {
				pid, failed := s.pc.PID(), make(chan error, 1)
				go func() { failed <- f(s, query) }() // ends when f does; received below
				var err error
				select {
				case err = <-failed:
				case <-testContext(t).Done():
					t.Fatalf("%s, %s: it hangs", query, name)
				}
				var server *pq.Error
				if !errors.Is(err, pgnotify.ErrNotSupported) || !errors.As(err, &server) || pgnotify.IsDisconnect(err) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s, %s: got %v", query, name, err)
				}
				if s.pc.PID() != pid || s.pc.TransactionStatus() != pgnotify.TransactionIdle {
					t.Fatalf("%s, %s: the session is %v", query, name, s.pc.TransactionStatus())
				}
				checkAnswers(t, s, query+", "+name)
			}
		}
		if n := queryValue[int](t, s, "select count(*) from none"); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

// Long output of a COPY is not waited for: it is cancelled.
func TestLongCopyToIsCancelled(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		_, err := s.ExecContext(testContext(t), "copy (select repeat('x', 10000) from generate_series(1, 1000) a, generate_series(1, 1000000) b) to stdout")
		if !errors.Is(err, pgnotify.ErrNotSupported) || pgnotify.IsDisconnect(err) {
			t.Error(err)
		}
		checkAnswers(t, s, "after it")
	})
}

// A COPY TO STDOUT that is prepared.
func TestPreparedCopyToIsAnError(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		tx, err := s.BeginTx(testContext(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.PrepareContext(testContext(t), "copy (select generate_series(1, 5)) to stdout")
		if !errors.Is(err, pgnotify.ErrNotSupported) || pgnotify.IsDisconnect(err) || !strings.Contains(err.Error(), "COPY TO STDOUT is not supported by lib/pq") {
			t.Error(err)
		}
		checkAnswers(t, tx, "in the transaction")
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
	})
}

// W2: COPY through Prepare.
func TestCopy(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		table := uniqueName("copy")
		mustExec(t, s, "create temp table "+table+" (a text)")
		const rows = 20000
		copyInto(t, s, table, rows)
		if got := queryValue[int](t, s, "select count(*) from "+table+" where length(a) > 0"); got != rows {
			t.Errorf("%d rows", got)
		}
	})
}

// copyStep prepares a COPY into a table of one int in a transaction, runs f, and
// rolls back; then the session must be usable.
func copyStep(t *testing.T, s *session, f func(ctx context.Context, tx *sql.Tx, st *sql.Stmt)) (table string, rollback error) {
	t.Helper()
	ctx := testContext(t)
	table = uniqueName("copy")
	mustExec(t, s, "create temp table "+table+" (a int check (a < 1000000))")
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := tx.PrepareContext(ctx, "copy "+table+" (a) from stdin")
	if err != nil {
		t.Fatal(err)
	}
	f(ctx, tx, st)
	return table, tx.Rollback()
}

// A row of COPY has values in an order, which names cannot change: as in lib/pq they are
// refused, and the COPY goes on.
func TestCopyRefusesNamedValues(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		_, err := copyStep(t, s, func(ctx context.Context, tx *sql.Tx, st *sql.Stmt) {
			for _, a := range []any{1, sql.Named("a", 2), 3} {
				_, err := st.ExecContext(ctx, a)
				if _, named := a.(sql.NamedArg); named != errors.Is(err, pgnotify.ErrNotSupported) || !named && err != nil {
					t.Errorf("%v: %v", a, err)
				}
			}
			if _, err := st.ExecContext(ctx); err != nil {
				t.Error(err)
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// W2: errors of COPY.
func TestCopyErrors(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for name, c := range map[string]struct {
			first, then any
			code        string
		}{
			"value":            {1, "x", "22P02"},
			"constraint":       {1, 1000000, "23514"},
			"amid many":        {"x", 1, "22P02"},
			"too many columns": {1, "1\t2", "22P02"}, // tabs are escaped
		} {
			pid := s.pc.PID()
			table, err := copyStep(t, s, func(ctx context.Context, _ *sql.Tx, st *sql.Stmt) {
				_, err := st.ExecContext(ctx, c.first)
				for i := 0; err == nil && i < 200000 && name == "amid many"; i++ {
					_, err = st.ExecContext(ctx, c.then)
				}
				if err == nil {
					if _, err = st.ExecContext(ctx, c.then); err == nil {
						_, err = st.ExecContext(ctx)
					}
				}
				if serverError(t, err).Code != "" && string(serverError(t, err).Code) != c.code {
					t.Errorf("%s: %v", name, err)
				}
				if pgnotify.IsDisconnect(err) {
					t.Errorf("%s: %v", name, err)
				}
				st.Close()
			})
			if err != nil {
				t.Errorf("%s: rollback: %v", name, err)
			}
			if n := queryValue[int](t, s, "select count(*) from "+table); n != 0 || pid != s.pc.PID() {
				t.Errorf("%s: %d rows", name, n)
			}
		}
	})
}

// W2: a COPY that is given up.
func TestAbandonedCopy(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		for name, close := range map[string]bool{"closed": true, "left open": false} {
			s := take(t, db)
			ctx := testContext(t)
			table := uniqueName("copy")
			mustExec(t, db, "create table "+table+" (a int)")
			tx, err := s.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			st, err := tx.PrepareContext(ctx, "copy "+table+" (a) from stdin")
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5000 {
				if _, err := st.ExecContext(ctx, i); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := tx.ExecContext(ctx, "select 1"); !errors.Is(err, pgnotify.ErrBusy) {
				t.Errorf("%s: a statement amid COPY: %v", name, err)
			}
			if close {
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := tx.Rollback(); err != nil {
				t.Errorf("%s: rollback: %v", name, err)
			}
			s.Close()
			if n := queryValue[int](t, db, "select count(*) from "+table); n != 0 {
				t.Errorf("%s: %d rows", name, n)
			}
			mustExec(t, db, "drop table "+table)
		}
	})
}

func TestCopyOutsideATransactionIsRefused(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		if _, err := s.PrepareContext(testContext(t), "copy pg_class from stdin"); err == nil {
			t.Error("no error")
		}
		queryValue[int](t, s, "select 1")
	})
}

// The end of a COPY that failed waits for what the server has still to say about
// it.
func TestCopyErrorBeforeReadyForQuery(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{
		pgfake.Greet(),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete("BEGIN"), pgfake.Ready('T')),
		pgfake.Await('Q'), pgfake.Send(pgfake.CopyIn(1)),
		pgfake.Await('d'), pgfake.Send(pgfake.Error("ERROR", "22P02", "no")),
		pgfake.Await('c'), pgfake.Send(pgfake.Ready('E')),
		pgfake.Await('Q'), pgfake.Send(pgfake.Complete("ROLLBACK"), pgfake.Ready('I')),
		pgfake.Serve(),
	})
	ctx, s := testContext(t), take(t, open(t, fake.DSN()))
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := tx.PrepareContext(ctx, "copy t (a) from stdin")
	if err != nil {
		t.Fatal(err)
	}
	for line := strings.Repeat("x", 70000); err == nil && ctx.Err() == nil; {
		_, err = st.ExecContext(ctx, line)
	}
	if _, err := st.ExecContext(ctx); serverError(t, err).Code != "22P02" || pgnotify.IsDisconnect(err) {
		t.Errorf("%v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	mustExec(t, s, "select 1")
}

// copyInto copies rows, each with the number of the row, into a table of one
// column.
func copyInto(t testing.TB, s *session, table string, rows int) {
	t.Helper()
	ctx := testContext(t)
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	st, err := tx.PrepareContext(ctx, "copy "+table+" from stdin")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if _, err := st.ExecContext(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.ExecContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
