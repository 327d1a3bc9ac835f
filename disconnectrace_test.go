package pgnotify_test

import (
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// D2, D8: a session that ends while its checkout looks at the socket, and has
// looked already, is known to be lost. Whether the pool learns of it in time to give
// another session does not matter. The moments of the end are spread over those of the
// checkout.
func TestEndWhileTheCheckoutLooks(t *testing.T) {
	t.Parallel()
	for i := range 60 {
		checkOutAtTheEnd(t, time.Duration(i)*50*time.Microsecond)
	}
}

// checkOutAtTheEnd takes a session out of the pool which ends some time after something
// has arrived over it.
func checkOutAtTheEnd(t *testing.T, later time.Duration) {
	t.Helper()
	say := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
		pgfake.Send(pgfake.Error("ERROR", "22P02", "no"), pgfake.Ready('I')), pgfake.WaitFor(say),
		pgfake.Send(pgfake.Parameter("TimeZone", "UTC")), func(*pgfake.Session) error {
			time.Sleep(later)
			return nil
		}})
	var socket watchedSocket
	lost := make(chan struct{}, 2)
	db := open(t, fake.DSN(), socket.option, func(c *pgnotify.Config) {
		c.OnDisconnect = func(*pgnotify.Conn, *pgnotify.DisconnectError) { lost <- struct{}{} }
	})
	first := take(t, db)
	if _, err := first.ExecContext(testContext(t), "x"); err == nil { // so the next checkout looks, however soon
		t.Fatal("no error")
	}
	first.Close()
	close(say)
	until(t, "the parameter has arrived", func() bool { return socket.readable() || len(lost) > 0 })
	second := take(t, db)
	recv(t, lost)
	second.Close()
	db.Close()
}
