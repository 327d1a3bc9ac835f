package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/pgnotify/pgnotify"
)

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
