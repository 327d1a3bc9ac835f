package wire_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A dialer gives lib/pq its connection.
type dialer struct{ conn *wire.Conn }

func (d dialer) Dial(string, string) (net.Conn, error)                       { return d.conn, nil }
func (d dialer) DialTimeout(string, string, time.Duration) (net.Conn, error) { return d.conn, nil }

// libpq has lib/pq speak over a script.
func libpq(t *testing.T, s *script, heard wire.Events) (*sql.DB, *wire.Conn) {
	t.Helper()
	conn := wire.NewConn(s, heard)
	connector, err := pq.NewConnectorConfig(pq.Config{Host: "test", User: "u", SSLMode: pq.SSLModeDisable})
	if err != nil {
		t.Fatal(err)
	}
	connector.Dialer(dialer{conn})
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close(); conn.Close() })
	return db, conn
}

// deadline is a context for a test.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestLibpqLongError is D16: long errors are readable, and the session goes on.
func TestLibpqLongError(t *testing.T) {
	t.Parallel()
	for _, n := range []int{29_990, 29_995, 29_996, 30_000, 30_001, 30_005, 30_006, 40_000, 65_536, 1 << 20} {
		long := longError(n)
		db, _ := libpq(t, newScript(whole, join(greeting()...), join(long, idle), join(tag("SELECT 0"), idle)), nobody{})
		ctx := deadline(t)
		_, err := db.ExecContext(ctx, "SELECT 1")
		var e *pq.Error
		if !errors.As(err, &e) || e.Code != "XX000" || e.Hint != "hint" || e.Where != "where" || e.Routine != "f" || !strings.HasPrefix(e.Message, "éé") {
			t.Fatalf("%d: %.100v", n, err)
		}
		if _, err := db.ExecContext(ctx, "SELECT 1"); err != nil {
			t.Errorf("%d: after it: %v", n, err)
		}
	}
}

// TestLibpqCopy: what would make lib/pq give up a COPY is kept from it.
func TestLibpqCopy(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		heard := newEvents()
		s := newScript(whole, join(greeting()...),
			join(tag("BEGIN"), inTx), join(note("a", "1"), copyIn, notice("2"), param("TimeZone", "Europe/Rome"), note("a", "3")),
			nil, join(param("TimeZone", "UTC"), tag("COPY 1"), notice("4"), inTx), join(tag("COMMIT"), idle), nil)
		db, conn := libpq(t, s, heard)
		ctx := deadline(t)
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if active && !conn.Activate() {
			t.Fatal("not active")
		}
		conn.WantCopy()
		stmt, err := tx.PrepareContext(ctx, "COPY t FROM STDIN")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stmt.ExecContext(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if result, err := stmt.ExecContext(ctx); err != nil {
			t.Fatal(err)
		} else if n, _ := result.RowsAffected(); n != 1 {
			t.Errorf("%d rows", n)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(heard.snapshot(), ","); got != "A a 1,N 2,A a 3,N 4" {
			t.Errorf("heard %s", got)
		}
	})
}

// TestLibpqCopyTag: lib/pq would panic over these tags, on a goroutine of its own.
func TestLibpqCopyTag(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"COPY x", "COPY ", "COPY 99999999999999999999", "INSERT 1"} {
		s := newScript(whole, join(greeting()...), join(tag("BEGIN"), inTx), join(copyIn), join(tag(bad), inTx))
		db, conn := libpq(t, s, nobody{})
		ctx := deadline(t)
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.WantCopy()
		stmt, err := tx.PrepareContext(ctx, "COPY t FROM STDIN")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stmt.ExecContext(ctx); err == nil {
			t.Errorf("%q: no error", bad)
		}
		_ = tx.Rollback()
	}
}

// TestLibpqCannotFork is C13.
func TestLibpqCannotFork(t *testing.T) {
	t.Parallel()
	db, _ := libpq(t, newScript(whole, []byte("Ecould not fork new process for connection: Cannot allocate memory\n\x00")), nobody{})
	if err := db.PingContext(deadline(t)); err == nil || !strings.Contains(err.Error(), "could not fork new process for connection: Cannot allocate memory") {
		t.Error(err)
	}
}

// TestLibpqNotPostgres: the error says what the peer is.
func TestLibpqNotPostgres(t *testing.T) {
	t.Parallel()
	db, _ := libpq(t, newScript(whole, []byte("SSH-2.0-OpenSSH_9.6\r\n")), nobody{})
	if err := db.PingContext(deadline(t)); err == nil || !strings.Contains(err.Error(), "not a PostgreSQL server") {
		t.Error(err)
	}
}
