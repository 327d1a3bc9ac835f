package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// listen subscribes the session to channels.
func (s *session) listen(t testing.TB, channels ...string) {
	t.Helper()
	if err := s.pc.Listen(testContext(t), channels...); err != nil {
		t.Fatal(err)
	}
}

// unlisten ends the subscription to channels.
func (s *session) unlisten(t testing.TB, channels ...string) {
	t.Helper()
	if err := s.pc.Unlisten(testContext(t), channels...); err != nil {
		t.Fatal(err)
	}
}

// next waits for the next notification.
func (s *session) next(t testing.TB) pgnotify.Notification {
	t.Helper()
	n, err := s.pc.WaitForNotification(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantNext waits for notifications with these payloads.
func (s *session) wantNext(t testing.TB, payloads ...string) {
	t.Helper()
	for _, want := range payloads {
		if n := s.next(t); n.Payload != want {
			t.Fatalf("got %+v, want payload %q", n, want)
		}
	}
}

// settle returns when the session has received all that was sent to it before:
// the server signals its process before the sender's COMMIT returns, and sends
// notifications ahead of the end of an answer.
func (s *session) settle(t testing.TB) {
	t.Helper()
	mustExec(t, s, "select 1")
}

// pending takes what was sent to the session before, and does not wait for more.
func (s *session) pending(t testing.TB) []string {
	t.Helper()
	s.settle(t)
	return payloads(t, s, pgnotify.Timeout(0))
}

// payloads iterates over notifications.
func payloads(t testing.TB, s *session, opts ...pgnotify.IterOption) []string {
	t.Helper()
	got := []string{}
	for n, err := range s.pc.Notifications(testContext(t), opts...) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.Payload)
	}
	return got
}

func wantPayloads(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got payloads %q, want %q", got, want)
	}
}

// recv takes what a channel gives, within the test's deadline.
func recv[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-testContext(t).Done():
		t.Fatal("nothing came")
	}
	return v
}

// notify sends one notification after the other.
func notify(t testing.TB, db pgnotify.Execer, channel string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := pgnotify.Notify(testContext(t), db, channel, p); err != nil {
			t.Fatal(err)
		}
	}
}

// notifyAtOnce sends notifications in one transaction.
func notifyAtOnce(t testing.TB, db execer, channel string, payloads ...string) {
	t.Helper()
	mustExec(t, db, "select pg_notify($1, p) from unnest($2::text[]) p", channel, pq.Array(payloads))
}

func mustBegin(t testing.TB, db interface {
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(testContext(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

func mustCommit(t testing.TB, tx *sql.Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// attempts is how often a test tries to meet a time limit on a busy machine.
const attempts = 10

// N2
func TestNotificationsArriveFromAnotherSession(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		const limit = 50 * time.Millisecond
		ctx, channel := testContext(t), uniqueName("n2")
		s.listen(t, channel)
		type arrival struct {
			pgnotify.Notification
			err  error
			time time.Time
		}
		arrivals := make(chan arrival)
		go func() { // ends after the last notification, or with ctx
			for range 2 * attempts {
				n, err := s.pc.WaitForNotification(ctx)
				arrivals <- arrival{n, err, time.Now()}
			}
		}()
		sender := take(t, db)
		worst := make([]time.Duration, attempts)
		for i := range worst {
			for _, payload := range []string{"1", "2"} {
				sent := time.Now()
				notify(t, sender, channel, payload)
				want := pgnotify.Notification{Channel: channel, Payload: payload, PID: sender.pc.PID()}
				a := recv(t, arrivals)
				if a.err != nil || a.Notification != want {
					t.Fatalf("got %+v, %v; want %+v", a.Notification, a.err, want)
				}
				worst[i] = max(worst[i], a.time.Sub(sent))
			}
		}
		if slices.Min(worst) > limit {
			t.Errorf("the slower of two notifications took %v; want %v at least once", worst, limit)
		}
	})
}

// N8
func TestNothingIsLostBeforeTheFirstWait(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n8")
		s.listen(t, channel)
		notify(t, db, channel, "1", "2")
		s.wantNext(t, "1", "2")
	})
}

// N8
func TestNothingIsLostByQueriesBeforeTheFirstWait(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n8")
		s.listen(t, channel)
		notify(t, db, channel, "1")
		for i := range 3 {
			if got := queryValue[int](t, s, "select $1::int", i); got != i {
				t.Fatalf("got %d, want %d", got, i)
			}
		}
		notify(t, s, channel, "2")
		notify(t, db, channel, "3")
		s.wantNext(t, "1", "2", "3")
	})
}

// N9
func TestReceiveQueryReceive(t *testing.T) {
	const rounds = 20
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n9")
		s.listen(t, channel)
		var want []string
		for i := range rounds {
			there, own := fmt.Sprintf("%d there", i), fmt.Sprintf("%d own", i)
			want = append(want, there, own)
			notify(t, db, channel, there)
			if i%2 == 0 {
				s.wantNext(t, there)
			}
			notify(t, s, channel, own)
			if got := queryValue[int](t, s, "select $1::int", i); got != i {
				t.Fatalf("got %d, want %d", got, i)
			}
			if i%2 == 1 {
				s.wantNext(t, there)
			}
			s.wantNext(t, own)
		}
		wantPayloads(t, s.pending(t))

		handled := record(t, s)
		for i := range want {
			notify(t, []pgnotify.Execer{db, s}[i%2], channel, want[i])
			s.settle(t)
		}
		var got []string
		for range want {
			got = append(got, recv(t, handled).Payload)
		}
		wantPayloads(t, got, want...)
		wantPayloads(t, s.pending(t), want...)
	})
}

// N10
func TestTwoChannelsInTheOrderSent(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		a, b := uniqueName("n10a"), uniqueName("n10b")
		s.listen(t, b, a)
		var want []pgnotify.Notification
		sender := take(t, db)
		tx := mustBegin(t, sender)
		for i := range 10 {
			n := pgnotify.Notification{Channel: []string{a, b}[i%3%2], Payload: fmt.Sprint(i), PID: sender.pc.PID()}
			want = append(want, n)
			if i < 5 {
				notify(t, tx, n.Channel, n.Payload)
				continue
			}
			if i == 5 {
				mustCommit(t, tx)
			}
			notify(t, sender, n.Channel, n.Payload)
		}
		for _, w := range want {
			if n := s.next(t); n != w {
				t.Fatalf("got %+v, want %+v", n, w)
			}
		}
	})
}

// N18
func TestPayloadThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	name := uniqueName("n18")
	admin := open(t, dsn(t))
	mustExec(t, admin, "create database "+name+" encoding 'SQL_ASCII' template template0 locale 'C'")
	t.Cleanup(func() { mustExec(t, admin, "drop database "+name) })
	t.Run("group", func(t *testing.T) { // ends before the database is dropped
		for _, m := range modes(t) {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				db := open(t, m.dsn+" dbname="+name)
				s, channel := take(t, db), uniqueName("n18")
				mustExec(t, s, "set client_encoding to 'SQL_ASCII'") // or the server refuses to send it
				s.listen(t, channel)
				const payload = "\xff\xfe caf\xe9 \xf0\x28"
				handled := record(t, s)
				mustExec(t, db, "select pg_notify('"+channel+`', E'\xff\xfe caf\xe9 \xf0\x28')`)
				s.wantNext(t, payload)
				if n := recv(t, handled); n.Payload != payload {
					t.Errorf("the handler got %q, want %q", n.Payload, payload)
				}
				notify(t, s, channel, payload)
				s.wantNext(t, payload)
				s.listen(t, "\xff") // a name is bytes too
				notify(t, s, "\xff", "by name")
				if n := s.next(t); n.Channel != "\xff" || n.Payload != "by name" {
					t.Errorf("got %+v", n)
				}
				s.settle(t)
			})
		}
	})
}

// N19
func TestIdleSessionReceives(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n19")
		handled := record(t, s)
		s.listen(t, channel)
		activity := func() string {
			return queryValue[string](t, db, "select state || query || query_start || state_change from pg_stat_activity where pid = $1", s.pc.PID())
		}
		for !strings.HasPrefix(activity(), "idle") { // the answer may overtake the statistics
		}
		before := activity()
		notify(t, db, channel, "1")
		if n := recv(t, handled); n.Payload != "1" {
			t.Errorf("got %+v", n)
		}
		s.wantNext(t, "1")
		if after := activity(); after != before {
			t.Errorf("the session ran something: before %q, then %q", before, after)
		}
	})
}

// N22
func TestListenAsPlainSQL(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n22")
		handled := record(t, s)
		mustExec(t, s, "LISTEN "+channel)
		if !s.pc.Active() {
			t.Error("the session does not hear while it is idle")
		}
		notify(t, db, channel, "1")
		if n := recv(t, handled); n.Payload != "1" {
			t.Errorf("got %+v", n)
		}
		s.wantNext(t, "1")

		mustExec(t, s, "UNLISTEN "+channel)
		notify(t, db, channel, "2")
		wantPayloads(t, s.pending(t))
	})
}

// N22
func TestListenAsPlainSQLInOtherForms(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, s *session, channel string){
		"several statements": func(t *testing.T, s *session, channel string) {
			mustExec(t, s, "select 1; listen "+channel+"; select 2")
		},
		"prepared": func(t *testing.T, s *session, channel string) {
			st, err := s.PrepareContext(testContext(t), "listen "+channel)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			if _, err := st.ExecContext(testContext(t)); err != nil {
				t.Fatal(err)
			}
		},
		"query": func(t *testing.T, s *session, channel string) {
			rows, err := s.QueryContext(testContext(t), "listen "+channel)
			if err != nil {
				t.Fatal(err)
			}
			if err := rows.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"transaction": func(t *testing.T, s *session, channel string) {
			tx := mustBegin(t, s)
			mustExec(t, tx, "listen "+channel)
			mustCommit(t, tx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
				channel := uniqueName("n22")
				handled := record(t, s)
				run(t, s, channel)
				notify(t, db, channel, "1")
				if n := recv(t, handled); n.Payload != "1" {
					t.Errorf("got %+v", n)
				}
			})
		})
	}
}
