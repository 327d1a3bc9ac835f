package pgserver_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func TestExistingBadDSN(t *testing.T) {
	tests := map[string]string{
		"refused":          "host=127.0.0.1 port=1 user=u password=geheim",
		"refused URL":      "postgres://u:geheim@127.0.0.1:1/db",
		"bad port":         "postgres://u:geheim@127.0.0.1:port/db",
		"slash in it":      "postgres://u:geheim/x@127.0.0.1/db",
		"bad escape":       "postgres://u:geheim%zz@127.0.0.1/db",
		"open quote":       "host=127.0.0.1 password='geheim",
		"no equals":        "host=127.0.0.1 password=x geheim",
		"in the host name": "host=geheim.invalid password=geheim",
	}
	for name, dsn := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PGNOTIFY_DSN", dsn)
			// The next source must not be tried.
			s, err := pgserver.Start(testContext(t), pgserver.Options{})
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), "pgserver: existing: PGNOTIFY_DSN is set, but ") {
				t.Errorf("the error does not name the variable: %v", err)
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

func TestExistingKeepsTheCause(t *testing.T) {
	t.Setenv("PGNOTIFY_DSN", "host=127.0.0.1 port=1 user=u password=geheim")
	_, err := pgserver.Start(testContext(t), pgserver.Options{})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want ECONNREFUSED", err)
	}
}

func TestExisting(t *testing.T) {
	ours := start(t, pgserver.Installed, pgserver.Options{})
	tests := map[string]struct {
		env    map[string]string
		dsn    string
		socket string
	}{
		"PGNOTIFY_DSN": {map[string]string{"PGNOTIFY_DSN": ours.DSN()}, ours.DSN(), ""},
		"PG variables": {map[string]string{
			"PGHOST": ours.Host(), "PGPORT": fmt.Sprint(ours.Port()), "PGUSER": "postgres", "PGSSLMODE": "disable",
		}, "", ""},
		"socket": {map[string]string{
			"PGHOST": ours.SocketDir(), "PGPORT": fmt.Sprint(ours.Port()), "PGUSER": "postgres",
		}, "", ours.SocketDir()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			s, err := pgserver.Start(testContext(t), pgserver.Options{Logf: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			if s.Source() != pgserver.Existing || s.Superuser() || s.PID() != 0 || s.Container() != "" {
				t.Errorf("got %v, superuser %v, pid %d, container %q", s.Source(), s.Superuser(), s.PID(), s.Container())
			}
			if s.DSN() != tt.dsn || s.SocketDir() != tt.socket || s.Port() != ours.Port() {
				t.Errorf("got DSN %q, socket %q, port %d", s.DSN(), s.SocketDir(), s.Port())
			}
			checkLeftAlone(t, s)
		})
	}
}

// checkLeftAlone checks that an existing server cannot be stopped.
func checkLeftAlone(t *testing.T, s *pgserver.Server) {
	t.Helper()
	if err := s.Stop(testContext(t), pgserver.Fast); err == nil {
		t.Error("Stop: no error")
	}
	if err := s.Restart(testContext(t), pgserver.Fast); err == nil {
		t.Error("Restart: no error")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	setting(t, s.DSN(), "server_version")
}

func TestExistingGoesOn(t *testing.T) {
	t.Setenv("PGHOST", "127.0.0.1")
	t.Setenv("PGHOSTADDR", "127.0.0.1")
	t.Setenv("PGPORT", "1")
	require(t, pgserver.Installed)
	s, err := pgserver.Start(testContext(t), pgserver.Options{
		Sources: []pgserver.Source{pgserver.Existing, pgserver.Installed},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Source() != pgserver.Installed {
		t.Errorf("got %v", s.Source())
	}
}
