package pgserver_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func TestNothingServes(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	t.Cleanup(pgserver.SetBinPatterns(nil))
	_, err := pgserver.Start(testContext(t), pgserver.Options{
		Sources: []pgserver.Source{pgserver.Existing, pgserver.Installed, pgserver.Docker},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"pgserver: no PostgreSQL can be used here:",
		"existing: neither PGNOTIFY_DSN nor any of PGHOST",
		"installed: initdb and postgres are neither in PATH",
		"docker: no daemon answers at unix:///nonexistent/docker.sock",
		"apt-get install postgresql",
		"or start Docker, or set PGNOTIFY_DSN",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error:\n%v", want, err)
		}
	}
}

func TestDockerElsewhere(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://docker.invalid:2375")
	_, err := pgserver.Start(testContext(t), pgserver.Options{Sources: []pgserver.Source{pgserver.Docker}})
	if err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownSource(t *testing.T) {
	t.Parallel()
	_, err := pgserver.Start(testContext(t), pgserver.Options{Sources: []pgserver.Source{42}})
	if err == nil || !strings.Contains(err.Error(), "Source(42): no such source") {
		t.Errorf("got %v", err)
	}
}

// TestStartFails checks that the error has the server's own words, and that
// nothing stays.
func TestStartFails(t *testing.T) {
	for _, source := range ourSources {
		t.Run(source.String(), func(t *testing.T) {
			require(t, source)
			t.Setenv("TMPDIR", openFolder(t))
			_, err := pgserver.Start(testContext(t), pgserver.Options{
				Sources: []pgserver.Source{source},
				Config:  map[string]string{"max_connections": "many"},
			})
			if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "max_connections": "many"`) {
				t.Errorf("got %v", err)
			}
			checkEmpty(t, os.TempDir())
		})
	}
}

// TestStartCancelled ends the context at different points of Start.
func TestStartCancelled(t *testing.T) {
	for _, source := range ourSources {
		for _, after := range []time.Duration{0, 20 * time.Millisecond, 70 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond} {
			t.Run(source.String()+"/"+after.String(), func(t *testing.T) {
				require(t, source)
				t.Setenv("TMPDIR", openFolder(t))
				ctx, cancel := context.WithTimeout(testContext(t), after)
				defer cancel()
				mark := rand.Text()
				s, err := pgserver.Start(ctx, pgserver.Options{
					Sources: []pgserver.Source{source},
					Config:  map[string]string{"application_name": mark},
				})
				if err == nil { // it was quicker
					err = errors.Join(s.Close(), context.DeadlineExceeded)
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				checkEmpty(t, os.TempDir())
				if source == pgserver.Docker {
					checkNoContainer(t, mark)
				}
			})
		}
	}
}

// openFolder returns a short folder that every user can enter.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgserver-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// checkNoContainer checks that no container has the mark in its command.
func checkNoContainer(t *testing.T, mark string) {
	t.Helper()
	left, err := pgserver.ContainersOf(testContext(t), mark)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

// TestTempDirOfAnotherUser has a TMPDIR that the server's account cannot enter.
func TestTempDirOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, whose server is run by another user")
	}
	tmp := openFolder(t)
	if err := os.Chmod(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	s := start(t, pgserver.Installed, pgserver.Options{})
	if strings.HasPrefix(s.SocketDir(), tmp) {
		t.Errorf("it is in %s", s.SocketDir())
	}
	checkEmpty(t, tmp)
}
