package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// What a session keeps at least, as its documentation says.
const (
	backlogCount = 32768
	backlogBytes = 8 << 20
)

// flow sends numbered notifications and checks what arrives of them.
type flow struct {
	s       *session
	channel string
	size    int // of a payload
	sent    int // the last number sent
	seen    int // the last number that was received, or counted as dropped
	dropped int
}

func newFlow(t *testing.T, s *session, size int) *flow {
	f := &flow{s: s, channel: uniqueName("flow"), size: size}
	s.listen(t, f.channel)
	return f
}

// send sends count notifications in one transaction and waits until they have
// arrived.
func (f *flow) send(t *testing.T, db execer, count int) {
	t.Helper()
	mustExec(t, db, "select pg_notify($1, rpad(i || ' ', $4, 'x')) from generate_series($2::int, $3::int) i",
		f.channel, f.sent+1, f.sent+count, f.size)
	f.sent += count
	f.s.settle(t)
}

// take takes up to count items, of all that are pending if it is negative, and
// checks that what is missing is counted, at its place.
func (f *flow) take(t *testing.T, count int) (kept, gaps int) {
	t.Helper()
	for n, err := range f.s.pc.Notifications(testContext(t), pgnotify.Timeout(0)) {
		if kept+gaps == count {
			t.Fatal("the loop goes on after its end")
		}
		var gap *pgnotify.GapError
		switch {
		case errors.As(err, &gap):
			gaps++
			f.checkGap(t, &gap.Gap)
		case err != nil:
			t.Fatal(err)
		default:
			kept++
			number, _, _ := strings.Cut(n.Payload, " ")
			i, err := strconv.Atoi(number)
			if err != nil || i != f.seen+1 || len(n.Payload) != f.size {
				t.Fatalf("got %.20q of %d bytes after %d", n.Payload, len(n.Payload), f.seen)
			}
			f.seen = i
		}
		if kept+gaps == count {
			break
		}
	}
	return kept, gaps
}

func (f *flow) checkGap(t *testing.T, gap *pgnotify.Gap) {
	t.Helper()
	if gap.Cause != pgnotify.GapOverflow || gap.Dropped == 0 || gap.Err != nil {
		t.Errorf("got gap %+v", *gap)
	}
	if gap.From.IsZero() || gap.To.Before(gap.From) || time.Since(gap.To) < 0 {
		t.Errorf("the gap is from %v to %v", gap.From, gap.To)
	}
	if text := (&pgnotify.GapError{Gap: *gap}).Error(); !strings.Contains(text, fmt.Sprint(gap.Dropped)) {
		t.Errorf("the error is %q", text)
	}
	f.seen += int(gap.Dropped)
	f.dropped += int(gap.Dropped)
}

// takeAll takes what is pending. Nothing may be missing then.
func (f *flow) takeAll(t *testing.T) (kept, gaps int) {
	t.Helper()
	kept, gaps = f.take(t, -1)
	if f.seen != f.sent {
		t.Fatalf("%d were sent, and %d received or counted", f.sent, f.seen)
	}
	return kept, gaps
}

// N20
func TestOverflowIsCountedInItsPlace(t *testing.T) {
	const many, more = 100_000, 100
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		f := newFlow(t, s, 10)
		f.send(t, db, backlogCount) // fits
		if kept, gaps := f.takeAll(t); kept != backlogCount || gaps != 0 {
			t.Fatalf("kept %d with %d gaps", kept, gaps)
		}
		for _, sender := range []execer{s, db} {
			f.dropped = 0
			f.send(t, sender, many)
			f.send(t, sender, more) // belongs to the gap too
			if kept, gaps := f.takeAll(t); kept < backlogCount || gaps != 1 || f.dropped != many+more-kept {
				t.Fatalf("kept %d with %d gaps, %d dropped", kept, gaps, f.dropped)
			}
			f.send(t, sender, more) // there is room again
			if kept, gaps := f.takeAll(t); kept != more || gaps != 0 {
				t.Fatalf("kept %d with %d gaps after the overflow", kept, gaps)
			}
		}
	})
}

// N20
func TestOverflowOfBytes(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		const size, count = pgnotify.MaxPayload, 4000
		f := newFlow(t, s, size)
		f.send(t, db, backlogBytes/size)
		if kept, gaps := f.takeAll(t); kept != backlogBytes/size || gaps != 0 {
			t.Fatalf("kept %d with %d gaps", kept, gaps)
		}
		f.send(t, db, count)
		if kept, gaps := f.takeAll(t); kept*size < backlogBytes || kept*size > 3*backlogBytes || gaps != 1 {
			t.Errorf("kept %d with %d gaps, %d dropped", kept, gaps, f.dropped)
		}
	})
}

// N20
func TestOverflowWhileSomeAreTaken(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		f := newFlow(t, s, 10)
		gaps := 0
		for _, step := range []struct{ send, take int }{
			{100, 1}, {70_000, 0}, {7, 50}, {3, 49}, {5, 40_000}, {11, 0}, {50_000, 0}, {13, 1},
			{0, 30_000}, {17, 31}, {70_000, 5}, {1, 1}, {0, -1},
		} {
			if step.send > 0 {
				f.send(t, db, step.send)
			}
			if step.take != 0 {
				_, g := f.take(t, step.take)
				gaps += g
			}
		}
		f.takeAll(t)
		if gaps < 2 {
			t.Errorf("got %d gaps, %d dropped", gaps, f.dropped)
		}
		if _, err := s.pc.WaitForNotification(expired(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// N20: the counts are right while one goroutine takes and another one sends.
func TestOverflowOfASlowConsumer(t *testing.T) {
	const count = 150_000
	eachMode(t, func(t *testing.T, db *sql.DB) {
		s := take(t, db)
		f := newFlow(t, s, 10)
		sent := make(chan error)
		go func() {
			for i := 0; i < count; i += 10_000 {
				_, err := db.ExecContext(context.Background(), "select pg_notify($1, rpad(i || ' ', $4, 'x')) from generate_series($2::int, $3::int) i",
					f.channel, i+1, i+10_000, f.size)
				if err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		gaps := 0
		for f.seen < 1000 { // slowly, in the course of it
			_, g := f.take(t, 1)
			gaps += g
		}
		if err := recv(t, sent); err != nil {
			t.Fatal(err)
		}
		f.sent = count
		s.settle(t)
		_, g := f.takeAll(t)
		t.Logf("%d gaps, %d dropped", gaps+g, f.dropped)
	})
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(testContext(t), time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// N20: WaitForNotification tells of a gap too.
func TestWaitTellsOfTheOverflow(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		s := take(t, db)
		const count = 4000
		f := newFlow(t, s, pgnotify.MaxPayload)
		f.send(t, db, count)
		kept := 0
		for {
			_, err := s.pc.WaitForNotification(testContext(t))
			var gap *pgnotify.GapError
			if errors.As(err, &gap) {
				if kept+int(gap.Gap.Dropped) != count {
					t.Errorf("%d kept, %d dropped", kept, gap.Gap.Dropped)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			kept++
		}
		notify(t, db, f.channel, "after")
		s.wantNext(t, "after")
	})
}

// N20
func TestUnlistenDropsWhatWasNotTaken(t *testing.T) {
	eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
		a, b, c := uniqueName("n20a"), uniqueName("n20b"), uniqueName("n20c")
		s.listen(t, a, b, c)
		for i := range 3 {
			for _, channel := range []string{a, b, c} {
				notify(t, db, channel, fmt.Sprintf("%s %d", channel[:4], i))
			}
		}
		s.settle(t)
		s.wantNext(t, "n20a 0", "n20b 0") // the others came together with these
		notify(t, db, a, "n20a 3")        // and these later
		notify(t, db, b, "n20b 3")
		s.settle(t)
		s.unlisten(t, a)
		notify(t, db, a, "too late")
		wantPayloads(t, s.pending(t), "n20c 0", "n20b 1", "n20c 1", "n20b 2", "n20c 2", "n20b 3")

		notify(t, db, b, "n20b 4")
		notify(t, db, c, "n20c 4")
		s.settle(t)
		s.unlisten(t)
		notify(t, db, b, "too late")
		wantPayloads(t, s.pending(t))

		s.listen(t, a)
		notify(t, db, a, "again")
		wantPayloads(t, s.pending(t), "again")
	})
}

// N29: not parallel, because it measures the memory of the process.
func TestMemoryOfASessionNobodyReads(t *testing.T) {
	const (
		count  = 10_000
		size   = 1000
		rounds = 5
		bound  = 30 << 20 // twice what is promised to be kept, and what a notification takes besides
	)
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			db := open(t, m.dsn)
			s := take(t, db)
			f := newFlow(t, s, size)
			before := heap()
			for round := range rounds {
				f.send(t, db, count)
				if used := heap() - before; used > bound {
					t.Fatalf("%d bytes are used after %d notifications", used, (round+1)*count)
				}
			}
			event := func() string {
				return queryValue[string](t, db, "select state || ' ' || coalesce(wait_event, 'none') from pg_stat_activity where pid = $1", s.pc.PID())
			}
			ctx := testContext(t)
			for event() != "idle ClientRead" { // ClientWrite, if nobody took what it sends
				if ctx.Err() != nil {
					t.Fatalf("the server's process waits for %s", event())
				}
			}
			kept, gaps := f.takeAll(t)
			if kept < backlogBytes/size || gaps != 1 || f.dropped != rounds*count-kept {
				t.Errorf("kept %d with %d gaps, %d dropped", kept, gaps, f.dropped)
			}
			if used := heap() - before; used > 2<<20 {
				t.Errorf("%d bytes are used after all were taken", used)
			}
			f.send(t, db, 10)
			if kept, gaps := f.takeAll(t); kept != 10 || gaps != 0 {
				t.Errorf("kept %d of 10 with %d gaps", kept, gaps)
			}
		})
	}
}

// heap returns the size of what is reachable.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
