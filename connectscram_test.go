package pgnotify_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// C2: a server that asks for more computing than anybody would wait for is
// refused, since lib/pq cannot be interrupted there.

func TestSCRAMIterations(t *testing.T) {
	t.Parallel()
	for _, iterations := range []int{30_000_000, 1<<31 - 1, 1 << 40} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.AskSCRAM(iterations), pgfake.Drain()})
		err := connectError(t, fake.DSN()+" password=hush", within(20*time.Second))
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d iterations: %v", iterations, err)
		}
		wantInOrder(t, err, fake.Addr(), "iterations")
	}
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.AskSCRAM(4096), pgfake.Await('p'),
		pgfake.Send(pgfake.Error("FATAL", "28P01", "no")), pgfake.Drain()})
	if err := connectError(t, fake.DSN()+" password=hush"); serverError(t, err).Code != "28P01" {
		t.Errorf("4096 iterations: %v", err)
	}
}
