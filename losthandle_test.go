package pgnotify_test

import (
	"database/sql"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A handle says how its session was lost, also after a statement has failed over
// that: with it, database/sql closes the session. What was received before can still
// be taken.
func TestHandleOfALostSession(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		s, ctx, channel := take(t, db), testContext(t), uniqueName("lost")
		s.listen(t, channel)
		notifyAtOnce(t, db, channel, "1", "2", "3")
		if n, err := s.pc.WaitForNotification(ctx); err != nil || n.Payload != "1" {
			t.Fatal(n, err)
		}
		terminate(t, db, s.pc.PID())
		recv(t, s.pc.Disconnected())
		_, err := s.ExecContext(ctx, "select 1")
		wantLoss(t, "a statement", err, pgnotify.AdminShutdown, "57P01")

		if n, err := s.pc.WaitForNotification(ctx); err != nil || n.Payload != "2" {
			t.Errorf("got %v, %v; the second notification had come before the loss", n, err)
		}
		var last error
		for n, err := range s.pc.Notifications(ctx) {
			if last = err; err == nil && n.Payload != "3" {
				t.Errorf("got %v, want the third notification", n)
			}
		}
		_, waitErr := s.pc.WaitForNotification(ctx)
		for what, err := range map[string]error{
			"Notifications":       last,
			"WaitForNotification": waitErr,
			"Timeout(0)":          lastError(s.pc.Notifications(ctx, pgnotify.Timeout(0))),
			"Listen":              s.pc.Listen(ctx, channel),
			"Unlisten":            s.pc.Unlisten(ctx),
			"DisconnectErr":       s.pc.DisconnectErr(),
		} {
			wantLoss(t, what, err, pgnotify.AdminShutdown, "57P01")
		}
		if err := s.pc.Cancel(ctx); err != nil {
			t.Errorf("Cancel: %v; there is nothing to cancel", err)
		}
	})
}
