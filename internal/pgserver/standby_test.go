package pgserver_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// startStandby starts a standby that ends with the test.
func startStandby(t *testing.T, primary *pgserver.Server) *pgserver.Server {
	t.Helper()
	s, err := primary.StartStandby(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// recovering reports whether a server is a standby.
func recovering(t *testing.T, s *pgserver.Server) bool {
	t.Helper()
	return setting(t, s.DSN(), "transaction_read_only") == "on"
}

func TestStandby(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		primary := start(t, source, pgserver.Options{Config: map[string]string{"max_connections": "37"}})
		execute(t, primary.DSN(), "CREATE ROLE before LOGIN")
		standby := startStandby(t, primary)
		if standby.Source() != source || standby.Port() == primary.Port() || standby.SocketDir() == primary.SocketDir() {
			t.Errorf("%v, port %d, socket in %s", standby.Source(), standby.Port(), standby.SocketDir())
		}
		if recovering(t, primary) || !recovering(t, standby) || setting(t, standby.DSN(), "max_connections") != "37" {
			t.Error("it is not a copy that follows")
		}
		execute(t, standby.DSN(), "SELECT 'before'::regrole")
		follows(t, primary, standby, "first")
		for _, s := range []*pgserver.Server{primary, standby} {
			if err := s.Restart(testContext(t), pgserver.Fast); err != nil {
				t.Fatal(err)
			}
			follows(t, primary, standby, "after_restart_of_"+map[bool]string{true: "primary", false: "standby"}[s == primary])
		}
		// The standby outlives its primary and takes its place.
		if err := primary.Stop(testContext(t), pgserver.Immediate); err != nil {
			t.Fatal(err)
		}
		execute(t, standby.DSN(), "SELECT pg_promote()")
		execute(t, standby.DSN(), "CREATE ROLE promoted")
		if recovering(t, standby) {
			t.Error("it was not promoted")
		}
	})
}

// follows checks that what is written to the primary comes to the standby.
func follows(t *testing.T, primary, standby *pgserver.Server, name string) {
	t.Helper()
	execute(t, primary.DSN(), "CREATE DATABASE "+name)
	eventually(t, name+" is on the standby", func() bool { return count(t, standby, name) == 1 })
}

func TestStandbyCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		primary := start(t, source, pgserver.Options{})
		standby := startStandby(t, primary)
		if err := standby.Close(); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, standby.Port(), standby.SocketDir(), standby.Container())
		setting(t, primary.DSN(), "server_version") // still there

		for _, after := range []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(testContext(t), after)
			defer cancel()
			s, err := primary.StartStandby(ctx)
			if err == nil { // it was quicker
				err = errors.Join(s.Close(), context.DeadlineExceeded)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v", after, err)
			}
		}
		if err := primary.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := primary.StartStandby(testContext(t)); err == nil {
			t.Error("a standby of a closed server")
		}
	})
}
