package pgnotify_test

import (
	"database/sql"
	"testing"
	"time"
)

// A session that the server ended while it lay in the pool is replaced without
// an error: nothing was sent over it.
func TestEndedIdleSessionIsReplaced(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		admin := open(t, dsn(t))
		for range 5 {
			pid := queryValue[uint32](t, db, "select pg_backend_pid()")
			returned := time.Now()
			terminateAndWait(t, admin, pid)
			time.Sleep(2*time.Millisecond - time.Since(returned)) // within one the pool may not look
			if again := queryValue[uint32](t, db, "select pg_backend_pid()"); again == pid {
				t.Errorf("backend %d was ended, and answers", pid)
			}
		}
	})
}
