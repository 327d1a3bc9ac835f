package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
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
				a := <-arrivals
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
			got = append(got, (<-handled).Payload)
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
				s.listen(t, channel)
				const payload = "\xff\xfe caf\xe9 \xf0\x28"
				handled := record(t, s)
				mustExec(t, db, "select pg_notify('"+channel+`', E'\xff\xfe caf\xe9 \xf0\x28')`)
				s.wantNext(t, payload)
				if n := <-handled; n.Payload != payload {
					t.Errorf("the handler got %q, want %q", n.Payload, payload)
				}
				if err := s.pc.Listen(testContext(t), "\xff"); err == nil {
					t.Error("the server took a channel that is not in the client's encoding")
				}
				notify(t, db, channel, "after")
				s.wantNext(t, "after")
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
		if n := <-handled; n.Payload != "1" {
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
		if n := <-handled; n.Payload != "1" {
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
				if n := <-handled; n.Payload != "1" {
					t.Errorf("got %+v", n)
				}
			})
		})
	}
}

// Names for channels: those that work, and those that are refused.
var (
	goodChannels = map[string]string{
		"lower case": "jobs", "upper case": "Jobs", "dot": "a.b", "quote": `a"b`, "quotes": `""`, "apostrophe": "a'b",
		"backslash": `a\b`, "space": " a b ", "semicolon": "a;b--", "newline": "a\nb", "placeholder": "$1", "star": "*",
		"keyword": "select", "unicode": "Größe 日本語 🐘", "63 bytes": strings.Repeat("x", 63),
		"63 bytes of 21 characters": strings.Repeat("日", 21),
	}
	badChannels = map[string]string{
		"empty": "", "NUL": "a\x00b", "only NUL": "\x00", "64 bytes": strings.Repeat("x", 64),
		"64 bytes of 32 characters": strings.Repeat("ü", 32), "very long": strings.Repeat("x", 1<<20),
	}
)

// N24
func TestChannelNames(t *testing.T) {
	for name, channel := range goodChannels {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, db *sql.DB) {
				s, own := take(t, db), uniqueName("")
				s.listen(t, channel)
				if got := queryValue[string](t, s, "select pg_listening_channels()"); got != channel {
					t.Errorf("the server listens to %q, not %q", got, channel)
				}
				other := strings.ToLower(channel)
				if other == channel {
					other = strings.ToUpper(channel)
				}
				if other != channel && len(other) <= pgnotify.MaxChannelName {
					notify(t, s, other, own)
				}
				notify(t, s, channel, own)
				n := s.next(t)
				for n.Payload != own { // from the same test in another mode
					n = s.next(t)
				}
				if n.Channel != channel {
					t.Errorf("got %+v, want channel %q", n, channel)
				}
				s.unlisten(t, channel)
				if got := queryValue[int](t, s, "select count(*) from pg_listening_channels()"); got != 0 {
					t.Errorf("the server listens to %d channels after Unlisten", got)
				}
			})
		})
	}
}

// N24
func TestChannelNamesRefused(t *testing.T) {
	for name, channel := range badChannels {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, db *sql.DB) {
				s, ctx := take(t, db), testContext(t)
				tx := mustBegin(t, s) // any statement that failed would spoil it
				for what, err := range map[string]error{
					"Listen":   s.pc.Listen(ctx, "fine", channel),
					"Unlisten": s.pc.Unlisten(ctx, "fine", channel),
					"Notify":   pgnotify.Notify(ctx, tx, channel, ""),
				} {
					if !errors.Is(err, pgnotify.ErrChannelName) {
						t.Errorf("%s: %v", what, err)
					} else if len(err.Error()) > 1000 {
						t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
					}
				}
				if got := s.pc.TransactionStatus(); got != pgnotify.TransactionOpen {
					t.Errorf("the transaction is %v", got)
				}
				mustCommit(t, tx)
				if got := queryValue[int](t, s, "select count(*) from pg_listening_channels()"); got != 0 {
					t.Errorf("the session listens to %d channels", got)
				}
			})
		})
	}
}

// refuse calls f with a pool that no statement is expected on, one with a
// transaction, and wants it to fail before it runs one.
func refuse(t *testing.T, want error, f func(pgnotify.Execer) error) {
	t.Helper()
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mock.ExpectBegin()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, execer := range []pgnotify.Execer{db, tx} {
		if err := f(execer); !errors.Is(err, want) {
			t.Errorf("%T: got %v, want %v", execer, err, want)
		}
	}
	mock.ExpectRollback()
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

// N24, N25
func TestNotifyRefusesWithoutAServer(t *testing.T) {
	t.Parallel()
	for name, channel := range badChannels {
		t.Run(name, func(t *testing.T) {
			refuse(t, pgnotify.ErrChannelName, func(db pgnotify.Execer) error {
				return pgnotify.Notify(context.Background(), db, channel, "")
			})
		})
	}
	for name, payload := range badPayloads {
		t.Run(name, func(t *testing.T) {
			refuse(t, pgnotify.ErrPayloadTooLong, func(db pgnotify.Execer) error {
				return pgnotify.Notify(context.Background(), db, "jobs", payload)
			})
		})
	}
}

// N24, N25
func TestNotifyStatement(t *testing.T) {
	t.Parallel()
	db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	const statement = "SELECT pg_catalog.pg_notify($1, $2)"
	for _, channel := range goodChannels {
		for _, payload := range goodPayloads {
			mock.ExpectExec(statement).WithArgs(channel, payload).WillReturnResult(sqlmock.NewResult(0, 1))
			if err := pgnotify.Notify(ctx, db, channel, payload); err != nil {
				t.Errorf("%q: %v", channel, err)
			}
		}
	}
	cause := errors.New("no more")
	mock.ExpectBegin()
	mock.ExpectExec(statement).WithArgs("jobs", "1").WillReturnError(cause)
	mock.ExpectCommit()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := pgnotify.Notify(ctx, tx, "jobs", "1"); !errors.Is(err, cause) || !strings.Contains(err.Error(), `"jobs"`) {
		t.Errorf("got %v", err)
	}
	mustCommit(t, tx)
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}

// Payloads at the limit, of one to four bytes a character.
var (
	goodPayloads = map[string]string{
		"empty": "", "7999 bytes": strings.Repeat("x", 7999), "2 bytes each": strings.Repeat("ü", 3999) + "x",
		"3 bytes each": strings.Repeat("日", 2666) + "x", "4 bytes each": strings.Repeat("🐘", 1999) + "日",
	}
	badPayloads = map[string]string{
		"8000 bytes": strings.Repeat("x", 8000), "8000 bytes of 2 each": strings.Repeat("ü", 4000),
		"8001 bytes of 3 each": strings.Repeat("日", 2667), "8000 bytes of 4 each": strings.Repeat("🐘", 2000),
		"1 MiB": strings.Repeat("x", 1<<20),
	}
)

// N25
func TestPayloads(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("n25")
		s.listen(t, channel)
		for name, payload := range goodPayloads {
			for _, sender := range []pgnotify.Execer{db, s} {
				notify(t, sender, channel, payload)
				if n := s.next(t); n.Payload != payload {
					t.Errorf("%s: got %d bytes, %.20q, want %d", name, len(n.Payload), n.Payload, len(payload))
				}
			}
		}
		tx := mustBegin(t, s)
		for name, payload := range badPayloads {
			err := pgnotify.Notify(ctx, tx, channel, payload)
			if !errors.Is(err, pgnotify.ErrPayloadTooLong) || len(err.Error()) > 1000 {
				t.Errorf("%s: %v", name, err)
			}
		}
		notify(t, tx, channel, "after") // the server saw none of them
		mustCommit(t, tx)
		wantPayloads(t, s.pending(t), "after")
	})
}

// N26
func TestEqualNotifications(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel, other := uniqueName("n26"), uniqueName("n26")
		s.listen(t, channel, other)
		tx := mustBegin(t, db)
		notify(t, tx, channel, "same", "same", "same")
		notify(t, tx, other, "same")
		mustCommit(t, tx)
		wantPayloads(t, s.pending(t), "same", "same") // one of each channel

		notify(t, db, channel, "same", "same", "same")
		wantPayloads(t, s.pending(t), "same", "same", "same")
	})
}

// N26
func TestNotificationsInCommitOrder(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n26")
		s.listen(t, channel)
		senders, txs := make([]*session, 3), make([]*sql.Tx, 3)
		for i := range txs {
			senders[i] = take(t, db)
			txs[i] = mustBegin(t, senders[i])
			notify(t, txs[i], channel, "same")
		}
		wantPayloads(t, s.pending(t))
		for _, i := range []int{2, 0, 1} {
			mustCommit(t, txs[i])
		}
		for _, i := range []int{2, 0, 1} {
			if n, want := s.next(t), senders[i].pc.PID(); n.Payload != "same" || n.PID != want {
				t.Errorf("got %+v, want the one of %d", n, want)
			}
		}
	})
}
