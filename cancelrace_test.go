package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// K6, promise 2: cancel requests that come about when their statement ends, 10,000
// times. Whatever becomes of the statement, the one that follows at once on the
// same session is never hit.
func TestCancelHitsNoLaterStatement(t *testing.T) {
	t.Parallel()
	rounds := 10_000
	if testing.Short() {
		rounds /= 10
	}
	var races []*race
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			for _, by := range []string{"context", "Cancel"} {
				races = append(races, newRace(t, m, active, by))
			}
		}
	}
	var group sync.WaitGroup
	var total atomic.Int64
	for _, r := range races {
		group.Go(func() { // TLS costs more, and so does less
			for i := 0; total.Add(1) <= int64(rounds) && !t.Failed(); i++ {
				r.round(t, i)
			}
		})
	}
	group.Wait()
	sum := make(map[raceEnd]int)
	for _, r := range races {
		r.check(t)
		for end, n := range r.ends {
			sum[raceEnd(end)] += n
		}
	}
	t.Logf("in all %d hit, %d were too late, %d were not made", sum[hit], sum[late], sum[unasked])
	if sum[hit] < rounds/20 || sum[late] < rounds/20 {
		t.Error("it was no race")
	}
}

// A race is between a statement on a session and its cancel request.
type race struct {
	name  string
	s     *session
	st    *sql.Stmt
	ctx   context.Context
	by    func(r *race, i int, after time.Duration) raceEnd
	sleep time.Duration // the statement's, which is adapted so that half of the requests hit
	dials atomic.Int32
	noted chan struct{} // gets a value when a cancel connection is dialed

	last chan error // what the last Cancel will return; nil if there is none
	ends [broken + 1]int
}

type raceEnd int

const (
	hit     raceEnd = iota // the statement was cancelled
	late                   // the request was made, and the statement was done before it came
	unasked                // the statement was done before that
	broken
)

func newRace(t *testing.T, m mode, active bool, by string) *race {
	r := &race{
		name:  fmt.Sprintf("%s, active=%v, by %s", m.name, active, by),
		sleep: 8 * time.Millisecond,
		noted: make(chan struct{}, 1),
		by:    map[string]func(*race, int, time.Duration) raceEnd{"context": (*race).byContext, "Cancel": (*race).byCancel}[by],
	}
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r.s = take(t, open(t, m.dsn, func(c *pgnotify.Config) { c.DialContext = r.dial }))
	if active {
		r.s.pc.Activate()
	}
	st, err := r.s.PrepareContext(r.ctx, "select pg_sleep($1)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r.st = st
	return r
}

func (r *race) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if r.dials.Add(1) > 1 {
		select {
		case r.noted <- struct{}{}:
		default:
		}
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// round runs a statement that is cancelled, and at once another.
func (r *race) round(t *testing.T, i int) {
	end := r.by(r, i, time.Duration(rand.IntN(int(2*time.Millisecond))))
	r.ends[end]++
	if end == broken {
		t.Errorf("%s: round %d: see above", r.name, i)
	}
	if end == hit {
		r.sleep -= r.sleep / 16
	} else {
		r.sleep += r.sleep / 16
	}
	// A victim that takes a moment, so that a request which comes too late finds it.
	if _, err := r.s.ExecContext(r.ctx, "select pg_sleep(0.001)"); err != nil {
		t.Errorf("%s: round %d, after %v: the next statement: %v", r.name, i, end, err)
	}
	if r.last != nil {
		if err := recv(t, r.last); err != nil {
			t.Errorf("%s: round %d: Cancel: %v", r.name, i, err)
		}
		r.last = nil
	}
}

// run runs the statement, by one kind of request after the other.
func (r *race) run(ctx context.Context, i int) (err error) {
	switch i % 3 {
	case 0:
		_, err = r.s.ExecContext(ctx, fmt.Sprintf("select pg_sleep(%g)", r.sleep.Seconds()))
	case 1:
		err = scan(r.s.QueryRowContext(ctx, "select pg_sleep($1)", r.sleep.Seconds()))
	case 2:
		_, err = r.st.ExecContext(ctx, r.sleep.Seconds())
	}
	return err
}

// byContext cancels the statement by the end of its context.
func (r *race) byContext(i int, after time.Duration) raceEnd {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer time.AfterFunc(after, cancel).Stop()
	dials := r.dials.Load()
	err := r.run(ctx, i)
	switch {
	case pgnotify.IsDisconnect(err):
		return broken
	case isQueryCanceled(err):
		return hit
	case err != nil && !errors.Is(err, context.Canceled):
		return broken
	case r.dials.Load() > dials:
		return late
	}
	return unasked
}

// byCancel cancels the statement by Cancel. It returns when the statement has, and
// when Cancel has either returned too, or has begun to connect: then it is
// settled which statement it is for.
func (r *race) byCancel(i int, after time.Duration) raceEnd {
	select {
	case <-r.noted: // from the round before
	default:
	}
	var begun atomic.Bool
	done := make(chan error, 1)
	timer := time.AfterFunc(after, func() {
		if !begun.CompareAndSwap(false, true) {
			return
		}
		done <- r.s.pc.Cancel(r.ctx)
	})
	dials := r.dials.Load()
	err := r.run(r.ctx, i)
	asked := !begun.CompareAndSwap(false, true)
	timer.Stop()
	if asked {
		select {
		case <-r.noted:
		case cancelErr := <-done:
			done <- cancelErr
		}
		r.last = done
	}
	switch {
	case err != nil && !isQueryCanceled(err) || pgnotify.IsDisconnect(err):
		return broken
	case err != nil:
		return hit
	case r.dials.Load() > dials:
		return late
	}
	return unasked
}

// check reports what the race was like.
func (r *race) check(t *testing.T) {
	total := r.ends[hit] + r.ends[late] + r.ends[unasked]
	t.Logf("%s: of %d requests %d hit, %d were too late, %d were not made; the last slept %v",
		r.name, total, r.ends[hit], r.ends[late], r.ends[unasked], r.sleep)
	if pid := queryValue[uint32](t, r.s, "select pg_backend_pid()"); pid != r.s.pc.PID() {
		t.Errorf("%s: session %d became %d", r.name, r.s.pc.PID(), pid)
	}
}
