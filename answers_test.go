package pgnotify_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// checkAnswers runs statements whose answers tell them apart, on whatever sessions the pool
// gives.
func checkAnswers(t *testing.T, db queryer, what string) {
	t.Helper()
	for i := range 10 {
		if got := queryValue[int](t, db, "select $1::int", i); got != i {
			t.Errorf("%s: statement %d got the answer of another: %d", what, i, got)
		}
		if got := queryValue[int](t, db, "select 1000"); got != 1000 {
			t.Errorf("%s: a simple statement got the answer of another: %d", what, got)
		}
	}
}

// O3: an answer that lib/pq does not read to its end hurts no later statement.
func TestAnswerThatIsLeftUnread(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		db.SetMaxOpenConns(1)
		for _, query := range []string{
			"select 1; copy (select 1) to stdout",
			"copy (select 1) to stdout; select 1",
			"select 1 where false; copy (select generate_series(1, 100000)) to stdout; select 2",
		} {
			for name, f := range map[string]func(ctx context.Context, s *session) error{
				"read":   func(ctx context.Context, s *session) error { return drain(s.QueryContext(ctx, query)) },
				"closed": func(ctx context.Context, s *session) error { return closeRows(s.QueryContext(ctx, query)) },
				"exec":   func(ctx context.Context, s *session) error { _, err := s.ExecContext(ctx, query); return err },
				"in a transaction": func(ctx context.Context, s *session) error {
					tx, err := s.BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer tx.Rollback()
					return drain(tx.QueryContext(ctx, query))
				},
			} {
				for _, active := range []bool{false, true} {
					s := take(t, db)
					if active {
						s.pc.Activate()
					}
					if err := f(testContext(t), s); err == nil {
						t.Errorf("%s, %s, active %v: no error", query, name, active)
					}
					s.Close()
					checkAnswers(t, db, query+", "+name)
				}
			}
		}
	})
}

// drain reads rows to their end.
func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return rows.Close()
}

// closeRows closes rows unread.
func closeRows(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	return rows.Close()
}

// Half a message behind an answer is no part of it. The session goes on, also where the
// answer is an error.
func TestErrorBeforeHalfAMessage(t *testing.T) {
	t.Parallel()
	notice := pgfake.Notice("NOTICE", "00000", "in two pieces")
	failed := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
		pgfake.Send(pgfake.Error("ERROR", "22012", "division by zero"), pgfake.Ready('I'), notice[:7]),
		pgfake.WaitFor(failed), pgfake.Send(notice[7:]), pgfake.Serve()})
	s := take(t, open(t, fake.DSN()))
	notices := messages(s)
	_, err := s.ExecContext(testContext(t), "select 1/0")
	if pgnotify.IsDisconnect(err) || serverError(t, err).Code != "22012" {
		t.Errorf("got %v", err)
	}
	close(failed)
	mustExec(t, s, "select 1")
	if got := notices.all(); len(got) != 1 || fake.Sessions() != 1 {
		t.Errorf("%q on %d sessions", got, fake.Sessions())
	}
}
