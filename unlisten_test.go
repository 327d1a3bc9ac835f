package pgnotify_test

import (
	"database/sql"
	"sync/atomic"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// N20, N21: UNLISTEN in a transaction takes effect with its commit, for what was
// received before too.
func TestUnlistenInATransaction(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel, other := uniqueName("n20"), uniqueName("n20")
		s.listen(t, channel, other)
		for _, commit := range []bool{false, true} {
			notify(t, db, channel, "1", "2")
			notify(t, db, other, "3")
			s.settle(t)
			tx := mustBegin(t, s)
			s.unlisten(t, channel)
			if commit {
				mustCommit(t, tx)
				wantPayloads(t, s.pending(t), "3")
				continue
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			wantPayloads(t, s.pending(t), "1", "2", "3")
		}
	})
}

// Promise 4: a handler that is not slow misses nothing of a burst.
func TestHandlerGetsAllOfABurst(t *testing.T) {
	const burst = 30_000
	eachMode(t, func(t *testing.T, db *sql.DB) {
		s, channel := take(t, db), uniqueName("burst")
		var got atomic.Int64
		all := make(chan struct{})
		s.pc.AddNotificationHandler(func(pgnotify.Notification) {
			if got.Add(1) == burst {
				close(all)
			}
		})
		s.listen(t, channel)
		mustExec(t, db, "select pg_notify($1, i::text) from generate_series(1, $2::int) i", channel, burst)
		select {
		case <-all:
		case <-testContext(t).Done():
			t.Errorf("the handler got %d of %d", got.Load(), burst)
		}
	})
}
