// Package browsertest looks at the live example with a browser.
package browsertest

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/examples/live/internal/feed"
	"github.com/pgnotify/pgnotify/internal/rig"
)

// TestMain fails when goroutines are left behind.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, check := range []func() error{rig.Lack, func() error { return goleak.Find() }} {
		if err := check(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// missing skips the test where something is missing that a visitor may not have, and
// fails it in CI.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// startServer returns the DSN of a throwaway PostgreSQL.
func startServer(t *testing.T) string {
	t.Helper()
	server, err := rig.StartServer(nil)
	if err != nil {
		rig.WithoutServer(t, err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.DSN()
}

// A site is the live example, whose listener can be kept from having a session.
type site struct {
	*httptest.Server
	t        *testing.T
	db       *sql.DB
	listener *pgnotify.Listener
	lost     chan struct{}
	away     chan struct{} // full while the listener cannot connect
}

func newSite(t *testing.T, dsn string) *site {
	t.Helper()
	config, err := pgnotify.ParseConfig(dsn)
	check(t, err)
	s := &site{t: t, away: make(chan struct{}, 1), lost: make(chan struct{}, 10)}
	config.BeforeConnect = func(ctx context.Context, _ *pgnotify.Config) error {
		select {
		case s.away <- struct{}{}:
			<-s.away
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	connector, err := pgnotify.NewConnector(config)
	check(t, err)
	s.listener, err = pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		Logger: slog.New(slog.DiscardHandler),
		OnEvent: func(e pgnotify.ListenerEvent) {
			if e.Kind == pgnotify.ListenerDisconnected {
				s.lost <- struct{}{}
			}
		},
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.listener.Close()) })
	s.db, err = sql.Open("pgnotify", dsn)
	check(t, err)
	t.Cleanup(func() { check(t, s.db.Close()) })
	check(t, feed.Create(t.Context(), s.db))
	s.Server = httptest.NewServer(feed.New(s.db, s.listener, s.lose)) // on 127.0.0.1
	t.Cleanup(func() {
		s.CloseClientConnections() // the streams would go on
		s.Close()
	})
	return s
}

// insert adds an entry, which sends a notification.
func (s *site) insert(text string) {
	s.t.Helper()
	check(s.t, feed.Insert(s.t.Context(), s.db, text))
}

// lose is what the page's button does.
func (s *site) lose(ctx context.Context) error {
	comeIn, err := s.cut(ctx)
	if err != nil {
		return err
	}
	defer comeIn()
	return feed.Insert(ctx, s.db, "missed because of the button")
}

// cut terminates the listener's session and keeps it from having another one, until
// the function that it returns is called.
func (s *site) cut(ctx context.Context) (comeIn func(), err error) {
	health, err := s.listener.Ping(ctx)
	if err != nil {
		return nil, err
	}
	s.away <- struct{}{}
	comeIn = func() { <-s.away }
	_, err = s.db.ExecContext(ctx, "SELECT pg_terminate_backend($1)", health.PID)
	if err == nil {
		select {
		case <-s.lost:
		case <-time.After(10 * time.Second):
			err = errors.New("the listener did not lose its session")
		}
	}
	if err != nil {
		comeIn()
		return nil, err
	}
	return comeIn, nil
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
