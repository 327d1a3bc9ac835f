package pgnotify_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// K3, K9: a Cancel whose request is not acknowledged holds its statement for one
// CancelTimeout from the request on, not for another one after it has given up;
// be it that the statement's own context has ended, too.
func TestCancelInVainHoldsTheStatementOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		const timeout = 2 * time.Second
		together(t, map[string]bool{"Cancel alone": false, "and the context": true}, func(t *testing.T, both bool) {
			s, n := newSession(t, cancelTimeout(timeout))
			n.divert(cancelFaults["the reply is lost"].dial(t, newBarrier()))
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
			untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
			began := time.Now()
			cancelled := async(t, func() error { return s.pc.Cancel(testContext(t)) })
			if both {
				cancel()
			}
			if err := recv(t, done); !isQueryCanceled(err) {
				t.Errorf("the statement: %v", err)
			}
			if took := time.Since(began); took > timeout*8/5 {
				t.Errorf("the statement returned after %v", took)
			}
			if err := recv(t, cancelled); err == nil && !both {
				t.Error("Cancel tells of no error")
			}
			wantEnd(t, s, false)
		})
	})
}

// K3: when CancelTimeout ends Cancel, its error says so, and is not that of the
// caller's context, which goes on.
func TestCancelTellsThatItsTimeEnded(t *testing.T) {
	eachWay(t, func(t *testing.T, _ mode, newSession func(*testing.T, ...func(*pgnotify.Config)) (*session, *network)) {
		faults := map[string]cancelFault{}
		for _, name := range []string{"no way", "deaf server", "the reply is lost"} {
			faults[name] = cancelFaults[name]
		}
		together(t, faults, func(t *testing.T, fault cancelFault) {
			s, n := newSession(t, cancelTimeout(300*time.Millisecond))
			n.divert(fault.dial(t, newBarrier()))
			statement, release := held(t)
			done := async(t, func() error { return execError(s.ExecContext(testContext(t), statement)) })
			untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "advisory")
			err := s.pc.Cancel(testContext(t))
			if err == nil || !strings.Contains(err.Error(), "cancel_timeout") || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Cancel: %v", err)
			}
			release()
			if err := recv(t, done); err != nil && !isQueryCanceled(err) {
				t.Errorf("the statement: %v", err)
			}
		})
	})
}
