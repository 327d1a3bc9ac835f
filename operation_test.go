package pgnotify_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A query on a passive session runs on the goroutine that asks, under a context
// that can be cancelled too. The test is not parallel: it looks at all goroutines
// of the process.
func TestQueryStartsNoGoroutine(t *testing.T) {
	s := take(t, open(t, dsn(t)))
	cancellable, cancel := context.WithCancel(testContext(t))
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		done := make(chan error, 1)
		go func() {
			_, err := s.ExecContext(ctx, "select pg_sleep(0.3)")
			done <- err
		}()
		for s.pc.TransactionStatus() != pgnotify.TransactionActive {
			time.Sleep(time.Millisecond)
		}
		if started := goroutinesOfPgnotify(); started != "" {
			t.Errorf("%s: a query started a goroutine:\n%s", name, started)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// goroutinesOfPgnotify returns the stacks of goroutines that the driver or lib/pq
// started.
func goroutinesOfPgnotify() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(g, "created by github.com/pgnotify/pgnotify.") ||
			strings.Contains(g, "created by github.com/pgnotify/pgnotify/internal/wire") ||
			strings.Contains(g, "created by github.com/lib/pq") ||
			strings.Contains(g, "created by context.AfterFunc") {
			found = append(found, g)
		}
	}
	return strings.Join(found, "\n\n")
}
