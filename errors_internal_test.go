package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/lib/pq"
)

// A cause that is the loss of this very session is told once; another one is told beside
// it.
func TestCanceledErrorTellsALossOnce(t *testing.T) {
	t.Parallel()
	server := &pq.Error{Code: "57P01", Message: "bye"}
	lost := &DisconnectError{Reason: AdminShutdown, Err: server, Time: time.Now()}
	told := *lost
	told.Sent = true
	foreign := &DisconnectError{Reason: Reset, Err: errors.New("cable"), Time: lost.Time.Add(-time.Second)}
	const loss = "session lost: terminated by an administrator: pq: bye (57P01) (the statement had been sent: its outcome is unknown)"
	for _, c := range []struct {
		cause error
		want  string
	}{
		{lost, "pgnotify: context canceled: " + loss},
		{context.Canceled, "pgnotify: context canceled: " + loss},
		{foreign, "pgnotify: context canceled (session lost: the connection was reset: cable): " + loss},
		{errors.New("mine"), "pgnotify: context canceled (mine): " + loss},
	} {
		err := &canceledError{ctx: context.Canceled, cause: c.cause, err: &told}
		if err.Error() != c.want {
			t.Errorf("%s, want\n%s", err, c.want)
		}
		var same *pq.Error
		if !errors.Is(err, context.Canceled) || !errors.Is(err, c.cause) || !errors.As(err, &same) || !IsDisconnect(err) {
			t.Errorf("%v: the errors are not found", err)
		}
	}
}

// What lib/pq said is reachable, unless database/sql would take it for leave to run the
// statement again.
func TestLibpqErrorUnwraps(t *testing.T) {
	cause := errors.New("pq: unexpected message")
	if !errors.Is(&libpqError{cause}, cause) {
		t.Error("lib/pq's error is not reachable")
	}
	if errors.Is(&libpqError{driver.ErrBadConn}, driver.ErrBadConn) {
		t.Error("database/sql would run the statement again")
	}
}
