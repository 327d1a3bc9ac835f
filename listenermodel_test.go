package pgnotify_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

var (
	modelSeeds = flag.Int("model.seeds", 20, "how many runs TestListenerModel makes; a quarter of it if -short")
	modelSeed  = flag.Uint64("model.seed", 1, "what the choices of its first run depend on; each other run has the next one")
)

// modelTime is how long the server of a run breaks things.
const modelTime = 400 * time.Millisecond

// A listenerModel is a Listener, a server that knows what it has sent, and subscribers
// of all kinds, whose ledgers must agree with that in the end. Where TestSoak has a real
// server and real faults, here faults are a hundred times as frequent, and fall between
// any two bytes.
//
// The seed decides what is done, but not what comes of it: that is a matter of time. A
// failure may need several runs with its seed.
type listenerModel struct {
	choices
	t      *testing.T
	server *modelServer
	l      *pgnotify.Listener
	deaf   bool        // sessions may be deaf, and Subscribe may say so
	hurry  atomic.Bool // nobody is slow any more, or becomes deaf
	takers sync.WaitGroup

	mu          sync.Mutex // guards subscribers
	subscribers []*modelSubscriber
}

// TestListenerModel: L3, L4, L6, L7, L9, L10, L12, L17 and L26 in any mixture.
func TestListenerModel(t *testing.T) {
	t.Parallel()
	n := *modelSeeds
	if testing.Short() {
		n = (n + 3) / 4
	}
	for i := range n {
		seed := *modelSeed + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			newListenerModel(t, seed).play()
		})
	}
}

func newListenerModel(t *testing.T, seed uint64) *listenerModel {
	t.Helper()
	m := &listenerModel{t: t, choices: choices{seed: seed}}
	dice := m.dice()
	m.deaf = dice.IntN(3) == 0
	m.server = newModelServer(t, dice.Uint64(), func(dice *rand.Rand) (pooled, deaf bool) {
		pooled = dice.IntN(2) == 0
		return pooled, m.deaf && pooled && dice.IntN(2) == 0 && !m.hurry.Load()
	})
	m.l, _ = listen(t, m.server.DSN(), func(c *pgnotify.ListenerConfig) {
		c.MinBackoff, c.MaxBackoff = time.Millisecond, 5*time.Millisecond
		c.HeartbeatTimeout = 20 * time.Second // the server is never silent; this machine may be
		if c.Heartbeat = between(dice, 2*time.Millisecond, 12*time.Millisecond); dice.IntN(3) == 0 {
			c.Heartbeat, m.server.gentle = -1, true // only a Ping finds out what is lost
		}
		if m.deaf {
			c.HeartbeatTimeout = 40 * time.Millisecond // which is how long a probe waits; silence is one fault more
		}
	})
	return m
}

// play is a run.
func (m *listenerModel) play() {
	ctx, stop := context.WithTimeout(context.Background(), modelTime)
	var actors sync.WaitGroup
	defer func() { // also of a run that fails on the way
		stop()
		actors.Wait()
		m.l.Close()
		m.takers.Wait()
		m.report()
	}()
	for range 4 {
		for m.subscribe(m.dice(), true) == nil && m.deaf {
		}
	}
	for _, act := range []func(context.Context, *rand.Rand){
		m.send, m.send, m.breakOften, m.comeAndGo, m.comeAndGo, m.askForTheBad, m.ping,
	} {
		dice := m.dice()
		actors.Go(func() { act(ctx, dice) })
	}
	actors.Wait()
	m.finish()
}

// send sends numbers, sometimes many of them.
func (m *listenerModel) send(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 0, 800*time.Microsecond)) {
		count := 1
		if dice.IntN(15) == 0 {
			count = 1 + dice.IntN(200)
		}
		channel := dice.IntN(len(modelChannels))
		for range count {
			m.server.notify(channel)
			if dice.IntN(3) == 0 {
				channel = dice.IntN(len(modelChannels))
			}
		}
	}
}

func (m *listenerModel) breakOften(ctx context.Context, dice *rand.Rand) {
	longest := []time.Duration{5, 20, 100}[dice.IntN(3)] * time.Millisecond
	for rest(ctx, between(dice, 0, longest)) {
		m.server.breakSome(dice)
	}
}

// comeAndGo subscribes for a moment.
func (m *listenerModel) comeAndGo(ctx context.Context, dice *rand.Rand) {
	for ctx.Err() == nil {
		s := m.subscribe(dice, false)
		rest(ctx, between(dice, 0, 20*time.Millisecond))
		if s != nil {
			s.sub.Close()
		}
	}
}

// subscribe begins a subscription; nil where its context has ended before.
func (m *listenerModel) subscribe(dice *rand.Rand, resident bool) *modelSubscriber {
	s := newModelSubscriber(dice.Uint64(), &m.hurry)
	s.resident = resident
	patience := 20 * time.Second
	if !resident && dice.IntN(4) == 0 {
		patience = between(dice, 0, 3*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sub, err := m.l.SubscribeConfig(ctx, s.config)
	if err != nil {
		switch {
		case m.deaf && errors.Is(err, pgnotify.ErrNotSupported):
		case patience > time.Second || !errors.Is(err, context.DeadlineExceeded):
			m.t.Errorf("%v: %v", s, err)
		}
		return nil
	}
	s.sub, s.ledger = sub, m.server.ledger(s.String(), s.config.Channels)
	s.ledger.catchUp = s.config.CatchUp != nil
	m.mu.Lock()
	m.subscribers = append(m.subscribers, s)
	m.mu.Unlock()
	m.takers.Go(func() { // ends with the subscription; joined by play
		s.take()
		s.latest = m.server.last()
		s.end(s.resident && sub.Err() == pgnotify.ErrClosed)
	})
	return s
}

// askForTheBad subscribes to a channel that the server refuses.
func (m *listenerModel) askForTheBad(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 0, 50*time.Millisecond)) {
		patient, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := m.l.Subscribe(patient, "a", fmt.Sprintf("bad%d", dice.IntN(5)))
		cancel()
		refused, ok := asError[*pq.Error](err)
		if (!ok || refused.Code != "22021") && !(m.deaf && errors.Is(err, pgnotify.ErrNotSupported)) {
			m.t.Errorf("a bad channel: %v", err)
		}
	}
}

// ping asks for the Listener's health and numbers.
func (m *listenerModel) ping(ctx context.Context, dice *rand.Rand) {
	for rest(ctx, between(dice, 0, 6*time.Millisecond)) {
		patient, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if _, err := m.l.Ping(patient); errors.Is(err, context.DeadlineExceeded) {
			m.t.Errorf("Ping: %v", err)
		}
		cancel()
		m.l.Stats()
	}
}

// finish sends the last numbers, when all is quiet, and waits for them.
func (m *listenerModel) finish() {
	m.t.Helper()
	m.hurry.Store(true)
	until(m.t, "it listens to all, and all is read", func() bool {
		_, err := m.l.Ping(testContext(m.t)) // which finds what no heartbeat has
		return err == nil && m.l.Stats().Queued == 0
	})
	final := make([]int64, len(modelChannels))
	for i := range final { // one by one: the smallest queue has room for one
		final[i] = m.server.notify(i)
		for _, s := range m.subscribers {
			sent := time.Now()
			until(m.t, s.name+": the last numbers have come", func() bool {
				if m.deaf && time.Since(sent) > time.Second { // a session was lost over them, because this machine is slow
					m.server.notify(i)
					sent = time.Now()
				}
				return s.has(final)
			})
		}
	}
}

// report compares the ledgers with what the server has sent.
func (m *listenerModel) report() {
	m.t.Helper()
	total, wrong := tally{}, 0
	for _, s := range m.subscribers {
		found, problems := m.server.check(s.ledger, s.latest)
		total.add(found)
		for _, p := range problems {
			if wrong++; wrong <= 10 {
				m.t.Errorf("%s: %s", s.name, p)
			}
		}
	}
	m.t.Logf("-model.seed=%d -model.seeds=1: %d sent; %d subscribers have seen %d, and miss %d, in %d gaps, %d dropped (%d stretches counted exactly); %d sessions; %d errors",
		m.seed, len(m.server.times), len(m.subscribers), total.seen, total.missing, total.gaps, total.dropped, total.exact, m.server.Sessions(), wrong)
}
