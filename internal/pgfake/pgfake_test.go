package pgfake_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// open returns a pool of lib/pq's own driver.
func open(t *testing.T, s *pgfake.Server) (*sql.DB, context.Context) {
	t.Helper()
	db, err := sql.Open("postgres", s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return db, ctx
}

func TestServeAnswersEveryKindOfRequest(t *testing.T) {
	t.Parallel()
	db, ctx := open(t, pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()}))
	if err := db.PingContext(ctx); err != nil {
		t.Error(err)
	}
	var one string
	if err := db.QueryRowContext(ctx, "select 1").Scan(&one); err != nil || one != "1" {
		t.Errorf("simple query: %q, %v", one, err)
	}
	st, err := db.PrepareContext(ctx, "select 1")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.QueryRowContext(ctx).Scan(&one); err != nil || one != "1" {
		t.Errorf("prepared: %q, %v", one, err)
	}
}

func TestScriptsAreForOneSessionEach(t *testing.T) {
	t.Parallel()
	s := pgfake.Start(t,
		pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Error("FATAL", "28000", "go away"))},
		pgfake.Script{pgfake.Greet(), pgfake.Serve()},
	)
	db, ctx := open(t, s)
	var rejected *pq.Error
	if err := db.PingContext(ctx); !errors.As(err, &rejected) || rejected.Message != "go away" {
		t.Errorf("first session: %v", err)
	}
	if err := db.PingContext(ctx); err != nil {
		t.Errorf("second session: %v", err)
	}
	if n := s.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

func TestResetIsAReset(t *testing.T) {
	t.Parallel()
	s := pgfake.Start(t, pgfake.Script{pgfake.Reset()})
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestCancelRequestsAreCounted(t *testing.T) {
	t.Parallel()
	s := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	told := make(chan string, 1)
	s.OnCancel(func(request string) { told <- request })
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x12\x67" + pgfake.Key)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Error(err)
	}
	if s.Cancels() != 1 || s.Sessions() != 0 {
		t.Errorf("%d cancel requests, %d sessions", s.Cancels(), s.Sessions())
	}
	select {
	case request := <-told:
		if request != "\x00\x00\x12\x67"+pgfake.Key {
			t.Errorf("told of %q", request)
		}
	default:
		t.Error("nobody was told")
	}
}
