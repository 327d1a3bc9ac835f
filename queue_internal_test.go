package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A never is a connector that does not connect.
type never struct{ nowhere }

func (never) Connect(ctx context.Context) (driver.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A hall is a Listener that hears what the test says, over a session that is none.
type hall struct {
	*Listener
	link *link
}

// newHall returns a hall that listens to the channels.
func newHall(t *testing.T, channels ...string) hall {
	t.Helper()
	l, err := NewListener(never{}, &ListenerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h := hall{l, &link{settled: true}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link = h.link
	for _, name := range channels {
		l.topics[name] = &topic{name: name, heard: true}
	}
	t.Cleanup(func() {
		l.mu.Lock()
		l.link = nil // nothing to close
		l.mu.Unlock()
		l.Close()
	})
	return h
}

// say delivers n notifications, over the channels in turn.
func (h hall) say(n int, channels ...string) { h.sayFrom(0, n, channels...) }

// sayFrom is say with payloads that count from first.
func (h hall) sayFrom(first, n int, channels ...string) {
	items := make([]wire.Notification, n)
	for i := range items {
		items[i] = wire.Notification{Channel: channels[i%len(channels)], Payload: fmt.Sprint(first + i)}
	}
	h.deliver(h.link, items)
}

func (h hall) subscribe(t *testing.T, config SubscriptionConfig) *Subscription {
	t.Helper()
	sub, err := h.SubscribeConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// eventually waits for an event that has no channel to wait on.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

func awaitAll(t *testing.T, group *sync.WaitGroup) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("not all have ended")
	}
}

// Nobody who iterates sleeps while there is something to be had, however many they
// are, whatever comes, and though others begin to take from a Go channel meanwhile.
func TestNobodySleepsThroughTheBell(t *testing.T) {
	t.Parallel()
	for _, takers := range []int{1, 2, 5} {
		for _, policy := range []OverflowPolicy{OverflowGap, OverflowDropOldest} {
			t.Run(fmt.Sprintf("%d iterate, %v", takers, policy), func(t *testing.T) {
				t.Parallel()
				h := newHall(t, "a", "b")
				sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a", "b"}, QueueSize: 256, Overflow: policy})
				var taken atomic.Int64
				var ended sync.WaitGroup
				iterate := func() {
					for _, err := range sub.All(context.Background()) {
						if err == nil {
							taken.Add(1)
						} else if !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
					}
				}
				receive := func() {
					for range sub.Events() {
						taken.Add(1)
					}
				}
				for range takers {
					ended.Go(iterate)
				}
				said := int64(0)
				for round := range 400 {
					if round == 200 {
						ended.Go(receive) // begins while it is said
					}
					n := 1 + rand.IntN(200)
					if rand.IntN(2) == 0 {
						n = 1 + rand.IntN(3)
					}
					if rand.IntN(2) == 0 {
						h.say(n, "a")
					} else {
						h.say(n, "a", "b")
					}
					said += int64(n)
					eventually(t, "all is taken", func() bool { return taken.Load() == said })
				}
				sub.Close()
				awaitAll(t, &ended) // all are told of the end
			})
		}
	}
}

// Nothing is lost, and nothing is out of its place, when somebody who iterates goes on
// with the Go channel while more comes than there is room for.
func TestEventsAmidTheStream(t *testing.T) {
	t.Parallel()
	for _, policy := range []OverflowPolicy{OverflowGap, OverflowDropOldest} {
		for range 300 {
			h := newHall(t, "a")
			sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 2 + rand.IntN(60), Overflow: policy})
			const said = 2000
			go func() {
				for from := 0; from < said; {
					n := min(1+rand.IntN(100), said-from)
					h.sayFrom(from, n, "a")
					from += n
				}
				if policy == OverflowGap { // what is left of the other would be lost
					sub.Close()
				}
			}()
			next := 0
			hear := func(e Event) {
				if e.Gap != nil {
					next += int(e.Gap.Dropped)
				} else if e.Payload == fmt.Sprint(next) {
					next++
				} else {
					t.Fatalf("%v: %s instead of %d", policy, e.Payload, next)
				}
			}
			left := rand.IntN(said / 2)
			var gap *GapError
			for n, err := range sub.All(context.Background()) {
				if errors.As(err, &gap) {
					hear(Event{Gap: &gap.Gap})
				} else if err == nil {
					hear(Event{Notification: n})
				}
				if left--; left <= 0 || next == said {
					break
				}
			}
			for next < said {
				e, ok := <-sub.Events()
				if !ok {
					break
				}
				hear(e)
			}
			if next != said {
				t.Fatalf("%v: %d of %d", policy, next, said)
			}
		}
	}
}

// A loop whose context ends leaves the bell to the others.
func TestWhoGivesUpTakesNoBell(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}})
	var taken atomic.Int64
	var ended sync.WaitGroup
	count := func(ctx context.Context) {
		for _, err := range sub.All(ctx) {
			if err == nil {
				taken.Add(1)
			}
		}
	}
	ended.Go(func() { count(context.Background()) })
	for said := int64(1); said <= 1000; said++ {
		ctx, stop := context.WithCancel(context.Background())
		ended.Go(func() { count(ctx) })
		ended.Go(stop)
		h.say(1, "a")
		eventually(t, "it is taken", func() bool { return taken.Load() == said })
	}
	sub.Close()
	awaitAll(t, &ended)
}

// waiting returns how many wait for the bell.
func waiting(s *Subscription) int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.waiting
}

// queued returns how many events are in the queue.
func queued(s *Subscription) int {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.queue.len()
}

func setHeld(s *Subscription, held bool) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.held = held
}

// Wake takes all that came together, if it waited before.
func TestWakeFoldsABatch(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}})
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	for range 300 {
		setHeld(sub, true) // Wake cannot but wait for the bell
		woken := make(chan error, 1)
		go func() { woken <- sub.Wake(ctx, time.Hour) }()
		eventually(t, "it waits", func() bool { return waiting(sub) == 1 })
		h.say(400, "a")
		if err := <-woken; err != nil {
			t.Fatal(err)
		}
		if n := queued(sub); n > 0 {
			t.Fatalf("%d are left", n)
		}
	}
	sub.Close()
	if err := sub.Wake(ctx, time.Hour); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// A hold ends while there is still room in the queue: those who take need time to be
// woken.
func TestHoldEndsAtHalf(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 101})
	h.Listener.mu.Lock()
	defer h.Listener.mu.Unlock()
	for i, want := range []struct {
		held bool
		n    int
	}{{true, 25}, {true, 50}, {false, 75}, {false, 100}} {
		sub.putRun(make([]wire.Notification, 25), 1)
		if held, n := sub.queue.held, sub.queue.len(); held != want.held || n != want.n {
			t.Errorf("after run %d: held %v, %d in the queue", i, held, n)
		}
	}
	h.endHoldsLocked()
	if sub.queue.hold.begun || sub.queue.held || len(h.held) > 0 {
		t.Error("held at the end of the batch")
	}
}

// Who has not taken what came a while ago is not held, nor is who hears with many others.
func TestNobodyIsHeldWhoIsBehind(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}})
	h.Listener.mu.Lock()
	defer h.Listener.mu.Unlock()
	start := time.Now()
	batch := func(after time.Duration, hearers int) bool { return h.holds(sub, start.Add(after), hearers) }
	take := func(n int) {
		for range n {
			if !sub.queue.take(new(Event)) {
				t.Fatal("nothing to take")
			}
		}
	}
	if !batch(0, 1) || !batch(maxHeld-1, 1) {
		t.Error("not held at the beginning")
	}
	if take(31); batch(2*maxHeld, 1) {
		t.Error("held with something left of the first batch")
	}
	if take(1); !batch(2*maxHeld, 1) {
		t.Error("not held, though that is taken")
	}
	if take(sub.queue.len()); batch(2*maxHeld, maxHearers+1) {
		t.Error("held while many others get theirs")
	}
}

// What is dropped counts as not taken.
func TestNobodyIsHeldWhoTakesNothing(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 201, Overflow: OverflowDropOldest})
	h.Listener.mu.Lock()
	defer h.Listener.mu.Unlock()
	start := time.Now()
	for i := range 100 {
		if held := h.holds(sub, start.Add(time.Duration(i)*maxHeld), 1); held && i > 1 { // nothing was there before the first
			t.Errorf("held in batch %d", i)
		}
	}
}

// holds delivers a run, and reports whether takers are held then.
func (h hall) holds(sub *Subscription, at time.Time, hearers int) bool {
	h.batchTime = at
	sub.putRun(make([]wire.Notification, 32), hearers)
	defer h.endHoldsLocked()
	return sub.queue.held
}

// What came before Events is called comes out of its channel first, also when that is
// called after the end; and who iterates goes on with what comes out of it.
func TestEventsAfterSomeCame(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		h := newHall(t, "a")
		sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, QueueSize: 100})
		h.say(40, "a")
		for range 20 {
			sub.queue.take(new(Event))
		}
		h.say(40, "a")
		if ended {
			sub.Close()
		}
		events := sub.Events()
		if len(events) != 60 || events != sub.Events() {
			t.Fatalf("%d events", len(events))
		}
		for i := range 30 {
			if e, want := <-events, fmt.Sprint((20+i)%40); e.Payload != want {
				t.Fatalf("%v instead of %v", e.Payload, want)
			}
		}
		h.say(10, "a") // which nobody gets after the end
		if !ended {
			sub.Close()
		}
		n := 0
		for _, err := range sub.All(context.Background()) {
			if err == nil {
				n++
			} else if err != ErrClosed {
				t.Error(err)
			}
		}
		if want := 30 + 10; !ended && n != want || ended && n != 30 {
			t.Errorf("ended %v: %d are left", ended, n)
		}
	}
}

// Who waits when Events is called gets what comes from then on, too.
func TestWhoWaitsMovesToTheOutlet(t *testing.T) {
	t.Parallel()
	for _, policy := range []OverflowPolicy{OverflowGap, OverflowDropOldest} {
		for range 200 {
			h := newHall(t, "a")
			sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}, Overflow: policy})
			got := make(chan error)
			take := func() {
				for _, err := range sub.All(context.Background()) {
					got <- err
					return
				}
			}
			for range 3 {
				go take()
			}
			eventually(t, "all wait", func() bool { return waiting(sub) == 3 })
			sub.Events()
			h.say(3, "a")
			for range 3 {
				select {
				case err := <-got:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(20 * time.Second):
					t.Fatal(policy, ": somebody waits for ever")
				}
			}
		}
	}
}

// All who wait are woken for what came together, though the first of them takes only one.
func TestEachTakesOneOfABatch(t *testing.T) {
	t.Parallel()
	for range 100 {
		h := newHall(t, "a")
		sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}})
		var taken sync.WaitGroup
		for range 5 {
			taken.Go(func() {
				if _, err := sub.queue.next(context.Background(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		eventually(t, "all wait", func() bool { return waiting(sub) == 5 })
		h.say(5, "a")
		awaitAll(t, &taken)
	}
}

// Who comes during a hold waits for its end.
func TestWhoComesDuringAHold(t *testing.T) {
	t.Parallel()
	h := newHall(t, "a")
	sub := h.subscribe(t, SubscriptionConfig{Channels: []string{"a"}})
	h.Listener.mu.Lock()
	defer h.Listener.mu.Unlock()
	sub.putRun(make([]wire.Notification, 32), 1)
	if sub.queue.take(new(Event)) {
		t.Error("there was something to take")
	}
	var taken sync.WaitGroup
	taken.Go(func() {
		if _, err := sub.queue.next(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it waits", func() bool { return waiting(sub) == 1 })
	h.endHoldsLocked()
	awaitAll(t, &taken)
}
