package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// N3
func TestTimeoutWithoutNotifications(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		const least, most = 500 * time.Millisecond, 750 * time.Millisecond
		s.listen(t, uniqueName("n3"))
		var took []time.Duration
		for range attempts {
			start := time.Now()
			wantPayloads(t, payloads(t, s, pgnotify.Timeout(least)))
			d := time.Since(start)
			if d < least {
				t.Fatalf("ended after %v, before the timeout of %v", d, least)
			}
			if d <= most {
				return
			}
			took = append(took, d)
		}
		t.Errorf("took %v; want %v at least once", took, most)
	})
}

// N4
func TestTimeoutIsTotal(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		const timeout = 300 * time.Millisecond
		ctx, channel := testContext(t), uniqueName("n4")
		s.listen(t, channel)
		start, count := time.Now(), 0
		notify(t, db, channel, "0")
		for n, err := range s.pc.Notifications(ctx, pgnotify.Timeout(timeout)) {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(count); n.Payload != want {
				t.Fatalf("got %q, want %q", n.Payload, want)
			}
			count++
			notify(t, s, channel, fmt.Sprint(count)) // so that there is always one more
		}
		if d := time.Since(start); d < timeout || count == 0 {
			t.Errorf("ended after %v with %d notifications", d, count)
		}
		wantPayloads(t, s.pending(t), fmt.Sprint(count))
	})
}

// N5
func TestTimeoutZeroTakesWhatIsPending(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n5")
		s.listen(t, channel)
		start := time.Now()
		for range 20 {
			wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)))
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("20 polls took %v", d)
		}
		for range 3 {
			notifyAtOnce(t, db, channel, "1", "2", "3")
			wantPayloads(t, s.pending(t), "1", "2", "3")
			wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)))
		}
		notifyAtOnce(t, db, channel, "1", "2", "3")
		s.settle(t)
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(0), pgnotify.StopAfter(2)), "1", "2")
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(-time.Second)), "3")
	})
}

// N5
func TestTimeoutZeroEndsWhileMoreArrives(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		channel := uniqueName("n5")
		s.listen(t, channel)
		notifyAtOnce(t, s, channel, "1", "2", "3")
		var got []string
		for n, err := range s.pc.Notifications(testContext(t), pgnotify.Timeout(0)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n.Payload)
			notify(t, s, channel, n.Payload+"'")
		}
		wantPayloads(t, got, "1", "2", "3")
		wantPayloads(t, s.pending(t), "1'", "2'", "3'")
	})
}

// N5
func TestTimeoutZeroDuringStatements(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n5")
		s.listen(t, channel)
		notify(t, db, channel, "1")
		s.settle(t)
		rows, err := s.QueryContext(testContext(t), "select generate_series(1, 100000)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)), "1")
		wantPayloads(t, payloads(t, s, pgnotify.Timeout(0)))
	})
}

// N6
func TestStopAfterIsExact(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n6")
		s.listen(t, channel)
		notify(t, db, channel, "1", "2", "3")
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(0)))
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(-1)))
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(2)), "1", "2")
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(1)), "3")
		wantPayloads(t, s.pending(t))
	})
}

// N7
func TestStopAfterWithinATransaction(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n7")
		s.listen(t, channel)
		notifyAtOnce(t, db, channel, "1", "2")
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(1)), "1")
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(1), pgnotify.Timeout(20*time.Second)), "2")
	})
}

// N11
func TestBreakKeepsTheRestOfABatch(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n11")
		s.listen(t, channel)
		notifyAtOnce(t, db, channel, "1", "2", "3", "4")
		for n, err := range s.pc.Notifications(testContext(t)) {
			if err != nil || n.Payload != "1" {
				t.Fatalf("got %+v, %v", n, err)
			}
			break
		}
		wantPayloads(t, payloads(t, s, pgnotify.StopAfter(3)), "2", "3", "4")
	})
}

// N12
func TestEndedContextDoesNotSpoilTheNextWait(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("n12")
		s.listen(t, channel)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		expiring, stop := context.WithTimeout(ctx, 5*time.Millisecond)
		defer stop()
		for _, c := range []struct {
			ctx  context.Context
			want error
		}{{ended, context.Canceled}, {expiring, context.DeadlineExceeded}, {expiring, context.DeadlineExceeded}} {
			if _, err := s.pc.WaitForNotification(c.ctx); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			var got []error
			for _, err := range s.pc.Notifications(c.ctx) {
				got = append(got, err)
			}
			if len(got) != 1 || !errors.Is(got[0], c.want) {
				t.Fatalf("the iterator gave %v, want %v", got, c.want)
			}
		}
		notify(t, db, channel, "1", "2")
		s.settle(t)
		if _, err := s.pc.WaitForNotification(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		s.wantNext(t, "1", "2")
	})
}

// N12
func TestContextEndsAsANotificationArrives(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel, sender := uniqueName("n12"), take(t, db)
		s.listen(t, channel)
		canceled := 0
		for i := range 50 {
			ctx, cancel := context.WithCancel(testContext(t))
			sent := make(chan error)
			go func() {
				if i%2 == 0 {
					cancel()
				}
				err := pgnotify.Notify(context.Background(), sender, channel, fmt.Sprint(i))
				cancel()
				sent <- err
			}()
			n, err := s.pc.WaitForNotification(ctx)
			if errors.Is(err, context.Canceled) {
				canceled++
				n = s.next(t)
			} else if err != nil {
				t.Fatal(err)
			}
			if n.Payload != fmt.Sprint(i) {
				t.Fatalf("got %q, want %d", n.Payload, i)
			}
			if err := recv(t, sent); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d of 50 cancelled", canceled)
	})
}

// N13
func TestSessionIsUsableWhileAnotherGoroutineIterates(t *testing.T) {
	const rounds = 30
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel, extra := testContext(t), uniqueName("n13"), uniqueName("n13")
		var got []string
		var iterated sync.WaitGroup
		iterated.Go(func() {
			for n, err := range s.pc.Notifications(ctx, pgnotify.StopAfter(2*rounds)) {
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, n.Payload)
			}
		})
		s.listen(t, channel)
		var want []string
		for i := range rounds {
			s.listen(t, extra)
			notify(t, db, channel, fmt.Sprintf("%d a", i))
			notify(t, s, extra, fmt.Sprintf("%d b", i))
			want = append(want, fmt.Sprintf("%d a", i), fmt.Sprintf("%d b", i))
			if got := queryValue[int](t, s, "select count(*) from generate_series(1, $1)", 100*i); got != 100*i {
				t.Fatalf("got %d, want %d", got, 100*i)
			}
			tx := mustBegin(t, s)
			mustExec(t, tx, "select 1")
			mustCommit(t, tx)
			if i < rounds-1 { // it would drop what has not been taken
				mustExec(t, s, "unlisten "+extra)
				notify(t, db, extra, "nobody")
			}
		}
		iterated.Wait()
		wantPayloads(t, got, want...)
		wantPayloads(t, s.pending(t))
		s.unlisten(t)
	})
}

// N13
func TestSessionIsUsableInTheLoopBody(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("n13")
		var others []string
		s.listen(t, channel)
		notifyAtOnce(t, db, channel, "1", "2", "3")
		var got []string
		for n, err := range s.pc.Notifications(ctx, pgnotify.StopAfter(6)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n.Payload)
			if n.Channel != channel {
				s.unlisten(t, n.Channel)
				notify(t, s, n.Channel, "nobody")
				continue
			}
			other := uniqueName("n13")
			others = append(others, other)
			s.listen(t, other)
			if sum := queryValue[int](t, s, "select sum(i) from generate_series(1, 1000) i"); sum != 500500 {
				t.Fatalf("got %d", sum)
			}
			notify(t, s, other, n.Payload+"'")
			for n, err := range s.pc.Notifications(ctx, pgnotify.StopAfter(0)) { // another iterator
				t.Errorf("got %+v, %v", n, err)
			}
		}
		wantPayloads(t, got, "1", "2", "3", "1'", "2'", "3'")
		if got := queryValue[string](t, s, "select string_agg(c, ' ') from pg_listening_channels() c"); got != channel {
			t.Errorf("listens to %q, want %q of %q", got, channel, others)
		}
	})
}

// N14
func TestAbandonedIteratorHoldsNothing(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("n14")
		s.listen(t, channel)
		_ = s.pc.Notifications(ctx, pgnotify.StopAfter(1)) // never begun
		notifyAtOnce(t, db, channel, "1", "2", "3", "4")
		next, stop := iter.Pull2(s.pc.Notifications(ctx))
		defer stop()
		if n, err, ok := next(); !ok || err != nil || n.Payload != "1" {
			t.Fatalf("got %+v, %v, %v", n, err, ok)
		}
		// Now it is suspended in the middle of a batch.
		s.settle(t)
		s.listen(t, uniqueName("n14"))
		s.wantNext(t, "2")
		func() {
			defer func() { recover() }()
			for range s.pc.Notifications(ctx) {
				panic("out of the loop")
			}
		}()
		s.settle(t)
		s.wantNext(t, "4")
		notify(t, db, channel, "5", "6")
		s.wantNext(t, "5")
		if n, err, ok := next(); !ok || err != nil || n.Payload != "6" {
			t.Errorf("got %+v, %v, %v", n, err, ok)
		}
		stop()
		notify(t, db, channel, "7")
		s.wantNext(t, "7")
	})
}

// N14
func TestAnIteratorMayRunAgain(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("n14")
		s.listen(t, channel)
		notify(t, db, channel, "1", "2", "3", "4")
		s.settle(t)
		seq := s.pc.Notifications(testContext(t), pgnotify.StopAfter(2), pgnotify.Timeout(0))
		for _, want := range [][]string{{"1", "2"}, {"3", "4"}, {}} {
			got := []string{}
			for n, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, n.Payload)
			}
			wantPayloads(t, got, want...)
		}
	})
}

// Each notification is given to one of several iterators, and in their order to
// each.
func TestConcurrentIterators(t *testing.T) {
	const count, iterators = 1000, 4
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		channel := uniqueName("shared")
		s.listen(t, channel)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		var (
			running sync.WaitGroup
			mu      sync.Mutex
			seen    []int
		)
		for range iterators {
			running.Go(func() {
				last := 0
				for n, err := range s.pc.Notifications(ctx) {
					if errors.Is(err, context.Canceled) {
						return
					}
					var i int
					if fmt.Sscan(n.Payload, &i); err != nil || i <= last {
						t.Errorf("got %+v, %v after %d", n, err, last)
						return
					}
					last = i
					mu.Lock()
					seen = append(seen, i)
					if len(seen) == count {
						cancel()
					}
					mu.Unlock()
				}
			})
		}
		for i := 0; i < count; i += 100 {
			mustExec(t, db, "select pg_notify($1, i::text) from generate_series($2::int, $3) i", channel, i+1, i+100)
		}
		running.Wait()
		slices.Sort(seen)
		if len(seen) != count || seen[0] != 1 || seen[count-1] != count {
			t.Errorf("got %d notifications", len(seen))
		}
	})
}

// A transaction with several notifications wakes all who wait for one.
func TestSeveralWaits(t *testing.T) {
	const waits = 3
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		ctx, channel := testContext(t), uniqueName("waits")
		s.listen(t, channel)
		for range 10 {
			got := make(chan string, waits)
			for range waits {
				go func() {
					n, err := s.pc.WaitForNotification(ctx)
					if err != nil {
						n.Payload = err.Error()
					}
					got <- n.Payload
				}()
			}
			for range 100 { // most of them wait then
				runtime.Gosched()
			}
			notifyAtOnce(t, db, channel, "1", "2", "3")
			var all []string
			for range waits {
				all = append(all, recv(t, got))
			}
			slices.Sort(all)
			wantPayloads(t, all, "1", "2", "3")
		}
	})
}
