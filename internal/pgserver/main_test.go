package pgserver_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// childVariable makes the test binary start a server, print where it is, and
// wait to be killed. Its value is the source.
const childVariable = "PGSERVER_TEST_CHILD"

func TestMain(m *testing.M) {
	if source := os.Getenv(childVariable); source != "" {
		child(source)
	}
	clearEnvironment()
	goleak.VerifyTestMain(m)
}

// clearEnvironment makes the tests depend on their own servers only.
func clearEnvironment() {
	for _, name := range []string{"PGNOTIFY_DSN", "PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER"} {
		os.Unsetenv(name)
	}
}

// child is a program that uses a server and does not end by itself.
func child(source string) {
	sources := map[string]pgserver.Source{"installed": pgserver.Installed, "docker": pgserver.Docker}
	s, err := pgserver.Start(context.Background(), pgserver.Options{Sources: []pgserver.Source{sources[source]}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.PID(), s.Port(), s.SocketDir(), s.Container())
	time.Sleep(time.Minute) // until it is killed, or forgotten
	os.Exit(3)
}
