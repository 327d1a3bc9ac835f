package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// waysToClose end a session or its lease, with the error that waits then get.
var waysToClose = []struct {
	name  string
	want  error
	close func(db *sql.DB, s *session) error
}{
	{"release", pgnotify.ErrReleased, func(_ *sql.DB, s *session) error { return s.Close() }},
	{"pool", pgnotify.ErrReleased, func(db *sql.DB, s *session) error { return errors.Join(db.Close(), s.Close()) }},
	{"driver", pgnotify.ErrClosed, func(_ *sql.DB, s *session) error {
		return s.Raw(func(dc any) error { return dc.(driver.Conn).Close() })
	}},
	{"discard", pgnotify.ErrClosed, func(_ *sql.DB, s *session) error {
		if err := s.Raw(func(any) error { return driver.ErrBadConn }); err != driver.ErrBadConn {
			return fmt.Errorf("Raw: %v", err)
		}
		return nil
	}},
}

// N23
func TestClosingEndsAWait(t *testing.T) {
	for _, way := range waysToClose {
		t.Run(way.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, db *sql.DB) {
				for _, listening := range []bool{false, true} {
					s, ctx := take(t, db), testContext(t)
					if listening {
						s.listen(t, uniqueName("n23"))
					}
					waits := []func() error{
						func() error { _, err := s.pc.WaitForNotification(ctx); return err },
						func() error { return lastError(s.pc.Notifications(ctx)) },
						func() error { return lastError(s.pc.Notifications(ctx, pgnotify.Timeout(time.Hour))) },
					}
					errs := make(chan error, len(waits))
					for _, wait := range waits {
						go func() { errs <- wait() }()
					}
					for !s.pc.Active() { // somebody waits
						runtime.Gosched()
					}
					pool := db
					if way.name == "pool" && !listening {
						pool = open(t, dsn(t)) // db is needed again
					}
					if err := way.close(pool, s); err != nil {
						t.Fatal(err)
					}
					for range waits {
						if err := recv(t, errs); !errors.Is(err, way.want) {
							t.Errorf("got %v, want %v", err, way.want)
						}
					}
					wantEnded(t, s, way.want)
				}
			})
		})
	}
}

// lastError iterates to the end.
func lastError(seq iter.Seq2[pgnotify.Notification, error]) (last error) {
	for _, err := range seq {
		last = err
	}
	return last
}

// wantEnded checks that nothing works any more, and that nothing hangs.
func wantEnded(t *testing.T, s *session, want error) {
	t.Helper()
	ctx := testContext(t)
	_, waitErr := s.pc.WaitForNotification(ctx)
	for what, err := range map[string]error{
		"WaitForNotification": waitErr,
		"Notifications":       lastError(s.pc.Notifications(ctx)),
		"Timeout(0)":          lastError(s.pc.Notifications(ctx, pgnotify.Timeout(0))),
		"Listen":              s.pc.Listen(ctx, "a"),
		"Listen to nothing":   s.pc.Listen(ctx),
		"Unlisten":            s.pc.Unlisten(ctx),
	} {
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	s.pc.AddNotificationHandler(func(pgnotify.Notification) {})()
	if _, err := s.ExecContext(ctx, "select 1"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a statement: %v", err)
	}
}

// N23: a wait, or a LISTEN, that begins as the session is closed. Neither has a
// context that ends.
func TestClosingRacesWithAWait(t *testing.T) {
	for _, way := range waysToClose {
		if way.name == "pool" {
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, db *sql.DB) {
				for i := range 20 {
					s, ctx := take(t, db), context.Background()
					if i%2 == 0 {
						s.listen(t, uniqueName("n23"))
					}
					calls := []func() error{
						func() error { _, err := s.pc.WaitForNotification(ctx); return err },
						func() error { return lastError(s.pc.Notifications(ctx)) },
						func() error {
							for {
								if err := lastError(s.pc.Notifications(ctx, pgnotify.Timeout(0))); err != nil {
									return err
								}
							}
						},
						func() error {
							for {
								err := s.pc.Listen(ctx, "a")
								if pgnotify.IsDisconnect(err) { // it was under way
									err = s.pc.Listen(ctx, "a")
								}
								if err != nil {
									return err
								}
							}
						},
					}
					errs := make(chan error)
					for _, call := range calls {
						go func() { errs <- call() }()
					}
					if err := way.close(db, s); err != nil {
						t.Fatal(err)
					}
					deadline := testContext(t)
					for range calls {
						select {
						case err := <-errs:
							if !errors.Is(err, way.want) {
								t.Errorf("got %v, want %v", err, way.want)
							}
						case <-deadline.Done():
							t.Fatal("a call did not end")
						}
					}
				}
			})
		})
	}
}
