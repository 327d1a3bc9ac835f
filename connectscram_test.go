package pgnotify_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// C2: a server that asks for more computing than anybody would wait for is
// refused, since lib/pq cannot be interrupted there. So is one that asks for less than
// one iteration, which would leave the password next to unprotected, and any count that
// is no plain number.
func TestSCRAMIterations(t *testing.T) {
	t.Parallel()
	for _, end := range []string{
		"i=30000000", "i=2147483647", "i=1099511627776", "i=99999999999999999999999",
		"i=0", "i=0000", "i=-4096", "i=-1", "i=+4096", "i=0x1000", "i=04096", "i=4_096", "i=4096.0", "i=1e4",
		"i= 4096", "i=4096 ", "i=", "I=4096", "j=4096", "4096", "",
		"i=4096,i=4096", "i=4096,i=1", "i=1,i=4096", "i=4096,x=y,i=1", "i=30000000,i=4096",
	} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.AskSCRAM(end), pgfake.Drain()})
		err := connectError(t, fake.DSN()+" password=hush", within(20*time.Second))
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", end, err)
		}
		wantInOrder(t, err, fake.Addr(), "protocol error", "SCRAM", "iterations")
	}
	for _, end := range []string{"i=1000", "i=4096", "i=1000000"} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.AskSCRAM(end), pgfake.Await('p'),
			pgfake.Send(pgfake.Error("FATAL", "28P01", "no")), pgfake.Drain()})
		if err := connectError(t, fake.DSN()+" password=hush", within(20*time.Second)); serverError(t, err).Code != "28P01" {
			t.Errorf("%s: %v", end, err)
		}
	}
}
