package pgnotify_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
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

// Promise 3: a context that ends while its request waits for the rollback of a
// transaction sends nothing.
func TestContextThatEndsWhileItsRequestWaits(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
		pgfake.Send(pgfake.Complete("BEGIN"), pgfake.Ready('T')), pgfake.Await('Q'), pgfake.WaitFor(goOn),
		pgfake.Send(pgfake.Complete("ROLLBACK"), pgfake.Ready('I')), pgfake.Serve()})
	s := take(t, open(t, fake.DSN()))
	ctx, cancel := context.WithCancel(testContext(t))
	if _, err := s.BeginTx(ctx, nil); err != nil {
		t.Fatal(err)
	}
	err := s.Raw(func(any) error { // holds up database/sql's rollback
		cancel()
		short, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
		defer cancel()
		context.AfterFunc(short, func() { close(goOn) })
		return s.pc.Listen(short, "x")
	})
	if !errors.Is(err, context.DeadlineExceeded) || s.pc.DisconnectErr() != nil {
		t.Errorf("%v, the session: %v", err, s.pc.DisconnectErr())
	}
	if _, ok := asError[*pq.Error](err); ok || fake.Cancels() != 0 {
		t.Errorf("it was sent: %v, %d cancel requests", err, fake.Cancels())
	}
}
