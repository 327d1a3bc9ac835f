package dispatch_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/dispatch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var background = context.Background()

// long is a patience that a test does not wait for unless it fails.
const long = 30 * time.Second

// A gate is a function for a queue that says what it is called with and waits.
type gate struct {
	entered chan int
	release chan struct{}
}

func newGate() *gate { return &gate{make(chan int, 1000), make(chan struct{})} }

func (g *gate) run(i int) {
	g.entered <- i
	<-g.release
}

func put(t *testing.T, q *dispatch.Queue[int], events ...int) {
	t.Helper()
	for _, e := range events {
		if !q.Put(e, 0) {
			t.Fatalf("event %d was dropped", e)
		}
	}
}

func TestEventsAreRunInOrder(t *testing.T) {
	t.Parallel()
	var got, want []int
	q := dispatch.New(1000, nil, func(i int) { got = append(got, i) }) // one at a time: the race detector would tell
	for i := range 1000 {
		want = append(want, i)
		mark := q.Mark()
		put(t, q, i)
		if i%10 == 0 {
			q.Flush(background, mark, long)
		}
	}
	q.Flush(background, q.Mark()-1, long)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestFullQueueDrops(t *testing.T) {
	t.Parallel()
	g := newGate()
	q := dispatch.New(2, nil, g.run)
	put(t, q, 0)
	<-g.entered // it is no longer waiting
	put(t, q, 1, 2)
	for i := range 5 {
		if q.Put(9, 0) || q.Dropped() != uint64(i+1) {
			t.Errorf("after %d: dropped %d", i+1, q.Dropped())
		}
	}
	close(g.release)
	q.Flush(background, 0, long)
	put(t, q, 3)
	q.Flush(background, 3, long)
	close(g.entered)
	var got []int
	for e := range g.entered {
		got = append(got, e)
	}
	if want := []int{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPutWaitsForRoom(t *testing.T) {
	t.Parallel()
	g := newGate()
	q := dispatch.New(1, nil, g.run)
	put(t, q, 0)
	<-g.entered
	put(t, q, 1)
	accepted := make(chan bool)
	go func() { accepted <- q.Put(2, long) }()
	select {
	case <-accepted:
		t.Fatal("Put did not wait while the queue was full")
	case g.release <- struct{}{}:
	}
	if !<-accepted || q.Dropped() != 0 {
		t.Errorf("the event was dropped, of %d", q.Dropped())
	}
	close(g.release)
	q.Flush(background, 0, long)
}

// A function that blocks costs the producer one patience, not one for each
// event; one that goes on gets another.
func TestPatienceIsLostOnce(t *testing.T) {
	t.Parallel()
	const patience = 50 * time.Millisecond
	g := newGate()
	q := dispatch.New(1, nil, g.run)
	put(t, q, 0)
	<-g.entered
	put(t, q, 1)
	start := time.Now()
	for range 10_000 {
		if q.Put(9, patience) {
			t.Fatal("it fits in")
		}
	}
	if d := time.Since(start); d < patience || d > 10_000*patience/2 {
		t.Errorf("10,000 events took %v", d)
	}
	if q.Dropped() != 10_000 {
		t.Errorf("%d were dropped", q.Dropped())
	}
	g.release <- struct{}{}
	<-g.entered // of event 1: there is room
	put(t, q, 2)
	start = time.Now()
	if q.Put(9, patience) || time.Since(start) < patience {
		t.Errorf("Put did not wait again, but %v", time.Since(start))
	}
	close(g.release)
	q.Flush(background, 0, long)
}

func TestFlush(t *testing.T) {
	t.Parallel()
	g := newGate()
	q := dispatch.New(10, nil, g.run)
	put(t, q, 0)
	<-g.entered

	start := time.Now()
	q.Flush(background, q.Mark(), long) // nothing since: what runs now is not waited for
	if d := time.Since(start); d > long/2 {
		t.Errorf("Flush waited for %v", d)
	}
	mark := q.Mark()
	put(t, q, 1)
	start = time.Now()
	q.Flush(background, mark, 20*time.Millisecond)
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("Flush returned after %v", d)
	}
	flushed := make(chan struct{})
	go func() {
		q.Flush(background, mark, long)
		close(flushed)
	}()
	g.release <- struct{}{}
	if e := <-g.entered; e != 1 {
		t.Errorf("got %d", e)
	}
	select {
	case <-flushed:
		t.Error("Flush returned while an event was being run")
	default:
	}
	g.release <- struct{}{}
	<-flushed
}

func TestTheFunctionMayUseTheQueue(t *testing.T) {
	t.Parallel()
	var (
		q   *dispatch.Queue[int]
		got []int
	)
	q = dispatch.New(10, nil, func(i int) {
		got = append(got, i)
		mark := q.Mark()
		q.Flush(background, mark, long)
		if i < 3 {
			q.Put(i+1, 0)
			q.Flush(background, mark, time.Millisecond) // of its own: in vain
		}
	})
	put(t, q, 0)
	for goal := range uint64(4) {
		q.Flush(background, goal, long)
	}
	if want := []int{0, 1, 2, 3}; !slices.Equal(got, want) || q.Dropped() != 0 {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFunctionThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	q := dispatch.New(10, nil, func(i int) {
		ran.Add(1)
		if i%2 == 0 {
			runtime.Goexit()
		}
	})
	for range 3 {
		mark := q.Mark()
		put(t, q, 0, 1, 2, 3)
		start := time.Now()
		q.Flush(background, mark, long)
		if d := time.Since(start); d > long/2 {
			t.Fatalf("Flush took %v", d)
		}
	}
	if ran.Load() != 12 {
		t.Errorf("%d events were run, want 12", ran.Load())
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	g := newGate()
	q := dispatch.New(2, nil, g.run)
	put(t, q, 0)
	<-g.entered
	put(t, q, 1, 2)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if q.Put(3, long) {
			t.Error("an event was accepted after Close")
		}
	})
	waiting.Go(func() { q.Flush(background, 0, long) })
	for range 100 {
		runtime.Gosched()
	}
	start := time.Now()
	q.Close()
	q.Close()
	waiting.Wait()
	if d := time.Since(start); d > long/2 {
		t.Errorf("those who waited came back after %v", d)
	}
	if q.Put(4, long) {
		t.Error("a closed queue took an event")
	}
	close(g.release)
	if len(g.entered) > 0 {
		t.Errorf("event %d was run after Close", <-g.entered)
	}
}

// The function may close the queue, as a handler may close its session.
func TestCloseFromTheFunction(t *testing.T) {
	t.Parallel()
	ran := make(chan int, 10)
	var q *dispatch.Queue[int]
	q = dispatch.New(10, nil, func(i int) {
		ran <- i
		q.Close()
	})
	put(t, q, 0, 1)
	q.Flush(background, 0, long)
	if first := <-ran; first != 0 {
		t.Errorf("got %d", first)
	}
	if len(ran) > 0 {
		t.Errorf("event %d was run after Close", <-ran)
	}
}

func TestStress(t *testing.T) {
	t.Parallel()
	const producers, events = 8, 2000
	var (
		ran      [producers]int // of one goroutine at a time
		last     [producers]int
		accepted [producers]int
		q        *dispatch.Queue[[2]int]
	)
	q = dispatch.New(16, nil, func(e [2]int) {
		if e[1] <= last[e[0]] {
			t.Errorf("producer %d: %d after %d", e[0], e[1], last[e[0]])
		}
		last[e[0]] = e[1]
		ran[e[0]]++
		if e[1]%100 == 0 {
			runtime.Goexit()
		}
	})
	var done sync.WaitGroup
	for p := range producers {
		done.Go(func() {
			for i := range events {
				mark := q.Mark()
				if q.Put([2]int{p, i + 1}, []time.Duration{0, time.Millisecond, long}[i%3]) {
					accepted[p]++
				}
				if i%50 == 0 {
					q.Flush(background, mark, long)
				}
			}
		})
	}
	done.Wait()
	q.Flush(background, 0, long)
	total := 0
	for p := range producers {
		if ran[p] != accepted[p] {
			t.Errorf("producer %d: %d were run, %d accepted", p, ran[p], accepted[p])
		}
		total += ran[p]
	}
	if got := uint64(total) + q.Dropped(); got != producers*events {
		t.Errorf("%d were run and %d dropped, of %d", total, q.Dropped(), producers*events)
	}
}
