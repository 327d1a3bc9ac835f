package pgnotify_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

var (
	soakTime = flag.Duration("soak", 5*time.Second, "how long TestSoak has its Listeners go through faults")
	soakSeed = flag.Uint64("soak.seed", 0, "what TestSoak's choices depend on; 0: a new one")
)

// A soak is senders who number what they send, Listeners over each way to their
// server with subscribers of all kinds, who keep ledgers, and faults all the time.
// In the end each number that somebody has missed must lie in a gap.
//
// The seed decides what is done, but not what comes of it: that is a matter of
// time.
type soak struct {
	*sender
	choices
	t      *testing.T
	server *testServer
	hurry  atomic.Bool // nobody is slow any more
	rigs   []*soakRig

	mu     sync.Mutex // guards faults
	faults map[string]int
}

// A soakRig is a Listener behind a valve, and its subscribers.
type soakRig struct {
	*soak
	name   string
	app    string // its application_name
	valve  *valve
	l      *pgnotify.Listener
	events *recorder

	mu      sync.Mutex // guards the fields below
	ledgers []*ledger
	readers []*tableReader
}

const soakChannels = 4

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, choices: choices{seed: *soakSeed}, server: ownServer(t), faults: make(map[string]int)}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("-soak=%v -soak.seed=%d", *soakTime, s.seed)
	s.sender = newSender(t, s.server.DSN(), soakChannels)
	for _, m := range s.server.modes() {
		s.addRig(m.name, m.dsn)
	}
	return s
}

func (s *soak) addRig(name, dsn string) {
	r := &soakRig{soak: s, name: name, app: uniqueName(name), events: newRecorder()}
	v, option := newValve(s.t, dsn)
	r.valve = v
	var err error
	r.l, err = pgnotify.NewListener(connector(s.t, dsn, option, within(400*time.Millisecond), func(c *pgnotify.Config) {
		c.ApplicationName = r.app
	}), &pgnotify.ListenerConfig{
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
		Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: 300 * time.Millisecond,
		OnEvent: r.events.record, Logger: quiet,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { r.l.Close() })
	s.rigs = append(s.rigs, r)
}

// Choices are what a test does at random, as its seed decides.
type choices struct {
	seed  uint64
	hands atomic.Uint64 // that have taken a source of choices
}

// dice returns a source of choices, another one for each call.
func (c *choices) dice() *rand.Rand { return rand.New(rand.NewPCG(c.seed, c.hands.Add(1))) }

// between returns a random time.
func between(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)))
}

// rest waits, and reports false when ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// subscribe begins a ledger; nil when ctx has ended before.
func (r *soakRig) subscribe(ctx context.Context, kind string, config pgnotify.SubscriptionConfig) (*pgnotify.Subscription, *ledger) {
	sub, err := r.l.SubscribeConfig(ctx, config)
	switch {
	case err == nil:
		g := r.ledger(r.name+", "+kind, config.Channels...)
		r.mu.Lock()
		r.ledgers = append(r.ledgers, g)
		r.mu.Unlock()
		return sub, g
	case ctx.Err() == nil && !errors.Is(err, pgnotify.ErrClosed):
		r.t.Errorf("%s, %s: %v", r.name, kind, err)
	}
	return nil, nil
}

// takenFrom returns what a subscription hears, in one of the ways to take it.
func takenFrom(sub *pgnotify.Subscription, dice *rand.Rand) iter.Seq[pgnotify.Event] {
	if dice.IntN(2) == 0 {
		return iterated(context.Background(), sub)
	}
	return received(sub)
}

// stay subscribes until the Listener is closed, again where the subscription ends
// before because it is slow.
func (r *soakRig) stay(ctx context.Context, dice *rand.Rand, kind string, pace func(), config pgnotify.SubscriptionConfig) {
	config.Channels = r.channels
	for {
		sub, g := r.subscribe(ctx, kind, config)
		if sub == nil {
			return
		}
		for e := range takenFrom(sub, dice) {
			g.note(e)
			pace()
		}
		g.end(sub.Err() == pgnotify.ErrClosed)
		if err := sub.Err(); err == pgnotify.ErrClosed {
			return
		} else if err != pgnotify.ErrSlowConsumer || config.Overflow != pgnotify.OverflowDisconnect {
			r.t.Errorf("%s: the subscription has ended: %v", g.name, err)
			return
		}
	}
}

// comeAndGo subscribes, to some channels, in some way, for a while.
func (r *soakRig) comeAndGo(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 0, 50*time.Millisecond)) {
		config := pgnotify.SubscriptionConfig{
			QueueSize: 2 << dice.IntN(8),
			Overflow:  pgnotify.OverflowPolicy(dice.IntN(3)),
		}
		for _, i := range dice.Perm(soakChannels)[:1+dice.IntN(soakChannels)] {
			config.Channels = append(config.Channels, r.channels[i])
		}
		visit, cancel := context.WithTimeout(ctx, between(dice, time.Millisecond, 1500*time.Millisecond))
		if sub, g := r.subscribe(visit, "coming and going, "+config.Overflow.String(), config); sub != nil {
			context.AfterFunc(visit, sub.Close)
			pace := func() {}
			if dice.IntN(2) == 0 {
				pace = r.slowly(dice)
			}
			for e := range takenFrom(sub, dice) { // what is left of it, too
				g.note(e)
				pace()
			}
			g.end(false)
			if sub.Err() == nil {
				r.t.Errorf("%s has ended, and no error says why", g.name)
			}
		}
		cancel()
	}
}

// slowly returns what slow subscribers do with an event.
func (r *soakRig) slowly(dice *rand.Rand) func() {
	return func() {
		if !r.hurry.Load() {
			pause := between(dice, 0, 4*time.Millisecond)
			if dice.IntN(200) == 0 {
				pause = between(dice, 0, 400*time.Millisecond)
			}
			time.Sleep(pause)
		}
	}
}

// break breaks something of a rig again and again.
func (r *soakRig) breakOften(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 50*time.Millisecond, 700*time.Millisecond)) {
		fault := []string{"terminate", "FIN", "RST", "truncate", "pause", "pause of answers", "short pause"}[dice.IntN(7)]
		r.count(fault)
		switch fault {
		case "terminate":
			query, stop := context.WithTimeout(ctx, 5*time.Second)
			_, _ = r.db.ExecContext(query, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", r.app)
			stop()
		case "FIN", "RST":
			r.valve.cut(fault == "RST")
		case "truncate":
			r.valve.cutAfter(1 + dice.IntN(2000))
		default:
			least, most := 500*time.Millisecond, 1200*time.Millisecond // more than the heartbeat takes
			if fault == "short pause" {
				least, most = 0, 250*time.Millisecond
			}
			r.valve.shut(fault != "pause of answers")
			rest(ctx, between(dice, least, most))
			r.valve.open()
		}
	}
}

// breakServer stops the server, or has one of its processes crash.
func (s *soak) breakServer(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 500*time.Millisecond, 6*time.Second)) {
		fault := []string{"fast", "immediate", "crash"}[dice.IntN(3)]
		s.count(fault)
		switch fault {
		case "fast":
			restart(s.t, s.server, pgserver.Fast)
		case "immediate":
			restart(s.t, s.server, pgserver.Immediate)
		case "crash":
			query, stop := context.WithTimeout(ctx, 10*time.Second)
			_, _ = s.db.ExecContext(query, "copy (select 1) to program 'kill -9 $PPID'")
			stop()
		}
	}
}

func (s *soak) count(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}

// ask asks for the Listener's health and numbers, which takes no longer than asked.
func (r *soakRig) ask(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 0, 100*time.Millisecond)) {
		began := time.Now()
		query, stop := context.WithTimeout(ctx, 2*time.Second)
		_, err := r.l.Ping(query)
		stop()
		if took := time.Since(began); took > 10*time.Second {
			r.t.Errorf("%s: Ping took %v: %v", r.name, took, err)
		}
		r.l.Stats()
	}
}

// TestSoak: L1 to L10, L17, L21 to L23 and all faults at once, for a while.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	ctx, stop := context.WithTimeout(context.Background(), *soakTime)
	defer stop()
	sending, stopSending := context.WithCancel(context.Background())
	defer stopSending()
	staying, leave := context.WithCancel(context.Background())
	defer leave()
	var faults, senders, visitors, residents sync.WaitGroup
	defer func() { // a test that fails on the way ends its goroutines too
		stop()
		stopSending()
		leave()
		for _, r := range s.rigs {
			r.l.Close()
		}
		for _, all := range []*sync.WaitGroup{&faults, &senders, &visitors, &residents} {
			all.Wait()
		}
	}()
	for own := range 2 {
		dice := s.dice()
		senders.Go(func() { s.send(sending, dice, 2*own, 2*own+1) })
	}
	for _, r := range s.rigs {
		r.settle(staying, &residents)
		for range 3 {
			dice := s.dice()
			visitors.Go(func() { r.comeAndGo(ctx, dice) })
		}
		breaking, asking := s.dice(), s.dice()
		faults.Go(func() { r.breakOften(ctx, breaking) })
		visitors.Go(func() { r.ask(ctx, asking) })
	}
	dice := s.dice()
	faults.Go(func() { s.breakServer(ctx, dice) })

	<-ctx.Done()
	faults.Wait()
	until(t, "the server answers", func() bool { return s.db.PingContext(testContext(t)) == nil })
	s.hurry.Store(true)
	visitors.Wait()
	stopSending()
	senders.Wait()
	s.finish(t)
	for _, r := range s.rigs {
		r.l.Close()
	}
	residents.Wait()
	s.report(t)
}

// settle begins the subscriptions that stay until the end.
func (r *soakRig) settle(ctx context.Context, all *sync.WaitGroup) {
	for _, c := range []struct {
		kind   string
		slow   bool
		config pgnotify.SubscriptionConfig
	}{
		{"fast", false, pgnotify.SubscriptionConfig{QueueSize: 1 << 14}},
		{"slow", true, pgnotify.SubscriptionConfig{QueueSize: 16}},
		{"slow, small", true, pgnotify.SubscriptionConfig{QueueSize: 2}},
		{"slow, drops the oldest", true, pgnotify.SubscriptionConfig{QueueSize: 16, Overflow: pgnotify.OverflowDropOldest}},
		{"slow, is disconnected", true, pgnotify.SubscriptionConfig{QueueSize: 16, Overflow: pgnotify.OverflowDisconnect}},
	} {
		dice, pace := r.dice(), func() {}
		if c.slow {
			pace = r.slowly(r.dice())
		}
		all.Go(func() { r.stay(ctx, dice, c.kind, pace, c.config) })
	}
	for _, overflow := range []pgnotify.OverflowPolicy{pgnotify.OverflowGap, pgnotify.OverflowDropOldest} {
		dice, pace := r.dice(), r.slowly(r.dice())
		all.Go(func() {
			r.readTable(ctx, dice, pace, pgnotify.SubscriptionConfig{QueueSize: 32, Overflow: overflow})
		})
	}
}

// finish sends the last numbers, when all is quiet, and waits for them.
func (s *soak) finish(t *testing.T) {
	t.Helper()
	for _, r := range s.rigs {
		r.valve.open()
		r.valve.cutAfter(-1)
		until(t, r.name+": it is connected, and all is read", func() bool {
			_, err := r.l.Ping(testContext(t))
			return err == nil && r.l.Stats().Queued == 0
		})
	}
	time.Sleep(200 * time.Millisecond) // a gap that is owed comes within 150 ms, where nothing else does
	final := make([]int64, soakChannels)
	for i := range final { // one by one: the smallest queue has room for one
		for arrived := false; !arrived; {
			lost := s.lost()
			if err := s.sendNumbers(i, 1, ""); err != nil {
				t.Fatal(err)
			}
			final[i] = s.begun[i].Load()
			arrived = s.await(t, final, lost)
		}
	}
}

// lost returns how many sessions have been lost, and replaced.
func (s *soak) lost() (n uint64) {
	for _, r := range s.rigs {
		n += r.l.Stats().Reconnects
	}
	return n
}

// await waits until all who are there have the last numbers. It reports false where more
// sessions have been lost meanwhile: on a machine that stands still for a moment, a
// heartbeat may be late, and the last numbers are then in a gap.
func (s *soak) await(t *testing.T, final []int64, lost uint64) bool {
	t.Helper()
	arrived := func(name string, has func([]int64) bool) bool {
		there := false
		until(t, name+": the last numbers have come", func() bool {
			there = has(final)
			return there || s.lost() > lost
		})
		return there
	}
	for _, r := range s.rigs {
		for _, reader := range r.readers {
			if !arrived(reader.name, reader.has) {
				return false
			}
		}
		r.mu.Lock()
		ledgers := slices.Clone(r.ledgers)
		r.mu.Unlock()
		for _, g := range ledgers {
			if !arrived(g.name, g.has) {
				return false
			}
		}
	}
	return true
}

// report audits all ledgers and prints what was found.
func (s *soak) report(t *testing.T) {
	t.Helper()
	sent := s.sent(t)
	total, numbers, wrong, ledgers := tally{}, 0, 0, 0
	complain := func(name, text string) {
		if wrong++; wrong <= 20 {
			t.Errorf("%s: %s", name, text)
		}
	}
	var received, reconnects, delivered uint64
	for _, n := range sent {
		numbers += len(n)
	}
	for _, r := range s.rigs {
		for _, g := range r.ledgers {
			found, problems := g.audit(sent)
			total.add(found)
			ledgers++
			for _, p := range problems {
				complain(g.name, p)
			}
		}
		for _, reader := range r.readers {
			for i, known := range reader.known {
				if !slices.Equal(known, sent[i]) {
					complain(reader.name, fmt.Sprintf("%d numbers known of the %d of %s", len(known), len(sent[i]), s.channels[i]))
				}
			}
			t.Logf("%s: %d calls of CatchUp, for %v; %d numbers heard", reader.name, reader.calls, reader.gaps, reader.unasked)
		}
		stats := r.l.Stats()
		received, reconnects, delivered = received+stats.Received, reconnects+stats.Reconnects, delivered+stats.Delivered
		for _, e := range r.events.all() {
			if e.Kind == 0 || e.Time.IsZero() { // L8
				complain(r.name, fmt.Sprintf("event %+v", e))
			}
		}
		t.Logf("%s: %d reconnects, %d gaps told", r.name, stats.Reconnects, len(r.events.all(pgnotify.ListenerGap)))
	}
	faults := 0
	for _, n := range s.faults {
		faults += n
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(s.faults)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", s.faults[k], k))
	}
	t.Logf("soak of %v: sent %d, received %d, delivered %d; in %d ledgers seen %d, missing %d, all in %d gaps, dropped %d (%d stretches counted exactly); %d faults (%s), %d reconnects; %d errors",
		*soakTime, numbers, received, delivered, ledgers, total.seen, total.missing, total.gaps, total.dropped, total.exact,
		faults, strings.Join(kinds, ", "), reconnects, wrong)
	if faults == 0 || reconnects == 0 || total.seen == 0 || total.gaps == 0 {
		t.Error("nothing has happened")
	}
}
