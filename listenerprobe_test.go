package pgnotify_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// Sessions whose process is not that of their start-up, as behind a pooler: whether they
// hear has to be found out.

// refusal is what a server without a free connection says.
var refusal = pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Error("FATAL", "53300", "sorry, too many clients already"))}

// listens answers LISTEN and UNLISTEN, as a server process with that number.
func listens(pid int) pgfake.Step {
	return func(c *pgfake.Session) error {
		for {
			typ, query, err := c.Message()
			if err != nil || typ == 'X' {
				return err
			}
			var tags []string
			for _, s := range listenStatement.FindAllStringSubmatch(string(query), -1) {
				tags = append(tags, s[1])
			}
			if err := acknowledgedBy(pid, tags...)(c); err != nil {
				return err
			}
		}
	}
}

// served returns a model server whose sessions are all of a kind, until it is changed.
func served(t *testing.T, pooled, deaf bool) (s *modelServer, change func(pooled, deaf bool)) {
	t.Helper()
	type kind struct{ pooled, deaf bool }
	var now atomic.Pointer[kind]
	change = func(pooled, deaf bool) { now.Store(&kind{pooled, deaf}) }
	change(pooled, deaf)
	return newModelServer(t, 1, func(*rand.Rand) (pooled, deaf bool) { k := now.Load(); return k.pooled, k.deaf }), change
}

// beating has the Listener look all the time. What takes longer than a probe waits.
func beating(c *pgnotify.ListenerConfig) {
	quickRetries(c)
	c.Heartbeat = time.Millisecond
}

// beats waits for so many heartbeats.
func beats(t *testing.T, l *pgnotify.Listener, n int) {
	t.Helper()
	for range n {
		mustPingListener(t, l)
	}
}

// wantQuiet checks that nothing was told but of a connection.
func wantQuiet(t *testing.T, events *recorder) {
	t.Helper()
	if all := events.all(); len(all) != 1 || all[0].Kind != pgnotify.ListenerConnected {
		t.Errorf("%v", all)
	}
}

// A pooler in session mode has a number of its own. That is looked into once, and
// nothing is wrong.
func TestPoolerThatPassesNotificationsOn(t *testing.T) {
	t.Parallel()
	s, _ := served(t, true, false)
	l, events := listen(t, s.DSN(), beating)
	sub := subscribe(t, l, "a")
	beats(t, l, 20)
	s.notify(0)
	wantPayload(t, sub, "1")
	subscribe(t, l, "b")
	if h := mustPingListener(t, l); h.Channels != 2 {
		t.Errorf("%d channels", h.Channels)
	}
	wantQuiet(t, events)
	if n := s.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// A session without a pooler costs no session and no round trip more, and its process is
// asked for once.
func TestDirectSessionIsNotProbed(t *testing.T) {
	t.Parallel()
	s, _ := served(t, false, false)
	var requests, asked atomic.Int64
	l, events := listenBy(t, connector(t, s.DSN(), onWrite(func(p []byte) {
		if p[0] == 'Q' {
			requests.Add(1)
		}
		if bytes.Contains(p, []byte("pg_backend_pid")) {
			asked.Add(1)
		}
	})), func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
	for _, channel := range modelChannels {
		subscribe(t, l, channel)
	}
	events.await(t, pgnotify.ListenerConnected, 1)
	if requests, asked := requests.Load(), asked.Load(); requests > int64(len(modelChannels)) || asked != 1 {
		t.Errorf("%d requests for %d LISTENs, %d of them ask for the process", requests, len(modelChannels), asked)
	}
	beats(t, l, 20)
	wantQuiet(t, events)
	if n := s.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// L26: a Listener whose session cannot hear says so: to OnEvent, in the log, and by the
// errors of Subscribe and Ping. It goes on trying.
func TestListenerThatCannotHear(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"default", "DeliveryProbe"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, change := served(t, true, true)
			var log logbook
			l, events := listen(t, s.DSN(), quickRetries, log.option, func(c *pgnotify.ListenerConfig) {
				c.HeartbeatTimeout = 100 * time.Millisecond
				c.DeliveryProbe = name == "DeliveryProbe"
			})
			for range 2 {
				if _, err := l.Subscribe(testContext(t), "a"); !errors.Is(err, pgnotify.ErrNotSupported) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Subscribe: %v", err)
				}
				if _, err := l.Ping(testContext(t)); !errors.Is(err, pgnotify.ErrNotSupported) {
					t.Errorf("Ping: %v", err)
				}
			}
			e := events.awaitError(t, pgnotify.ErrNotSupported)
			log.find(t, slog.LevelWarn, "pgnotify: listener: "+e.Kind.String(), map[string]any{"error": e.Err})
			change(true, false) // the pooler has another mode now
			var sub *pgnotify.Subscription
			until(t, "it hears", func() (heard bool) {
				var err error
				sub, err = l.Subscribe(testContext(t), "a")
				return err == nil
			})
			s.notify(0)
			wantPayload(t, sub, "1")
		})
	}
}

// L3: the session comes to another process. Where that hears, the LISTEN is repaired.
// Where it does not, that is told.
func TestProcessThatChangesLater(t *testing.T) {
	t.Parallel()
	for name, pooled := range map[string]bool{"direct": false, "pooler": true} {
		for outcome, deaf := range map[string]bool{"hears": false, "deaf": true} {
			t.Run(name+"/"+outcome, func(t *testing.T) {
				t.Parallel()
				s, _ := served(t, pooled, false)
				l, events := listen(t, s.DSN(), beating, func(c *pgnotify.ListenerConfig) { c.HeartbeatTimeout = time.Second })
				sub := subscribe(t, l, "a")
				beats(t, l, 2)
				moved := time.Now()
				s.moveAll(deaf)
				if gap := events.await(t, pgnotify.ListenerGap, 1).Gap; gap.Cause != pgnotify.GapListenLost || gap.From.After(moved) {
					t.Errorf("%v", gap)
				}
				if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
					t.Errorf("%v", gap)
				}
				if deaf {
					if _, err := l.Subscribe(testContext(t), "b"); !errors.Is(err, pgnotify.ErrNotSupported) {
						t.Errorf("Subscribe: %v", err)
					}
					if e := events.await(t, pgnotify.ListenerDisconnected, 1); !errors.Is(e.Err, pgnotify.ErrNotSupported) {
						t.Errorf("%v", e)
					}
					if gap := event(t, sub).Gap; gap == nil || !errors.Is(gap.Err, pgnotify.ErrNotSupported) || gap.From.After(moved) {
						t.Errorf("%v", gap)
					}
				}
				subscribe(t, l, "b")
				beats(t, l, 20)
				s.notify(0)
				wantPayload(t, sub, "1")
				if told := events.all(pgnotify.ListenerDisconnected); !deaf && len(told) > 0 {
					t.Errorf("%v", told)
				}
				want := 2 // with a probe for the process to which it has moved
				if pooled {
					want++ // and for the first
				}
				if deaf {
					want += 2 // and with another session, whose probe is due
				}
				if n := s.Sessions(); n != want {
					t.Errorf("%d sessions, want %d", n, want)
				}
			})
		}
	}
}

// A session that follows a deaf one is probed before it listens: subscribers are not told
// to look again until they are heard for.
func TestDeafSessionsBringNoGaps(t *testing.T) {
	t.Parallel()
	s, change := served(t, true, false)
	l, events := listen(t, s.DSN(), beating, func(c *pgnotify.ListenerConfig) { c.HeartbeatTimeout = 100 * time.Millisecond })
	sub := subscribe(t, l, "a")
	change(true, true)
	s.moveAll(true)
	events.await(t, pgnotify.ListenerReconnecting, 4)
	change(true, false)
	events.await(t, pgnotify.ListenerConnected, 2)
	s.notify(0)
	for _, want := range []pgnotify.GapCause{pgnotify.GapListenLost, pgnotify.GapReconnect} {
		if gap := event(t, sub).Gap; gap == nil || gap.Cause != want {
			t.Errorf("%v, want one because %v", gap, want)
		}
	}
	wantPayload(t, sub, "1")
}

// A scarce is a connector for a server that has one connection, and for a while no other.
type scarce struct {
	driver.Connector
	refused atomic.Int64
	refuse  func(ctx context.Context, n int64) error // the n-th further connection
}

func (s *scarce) Connect(ctx context.Context) (driver.Conn, error) {
	if n := s.refused.Add(1) - 1; n > 0 {
		if err := s.refuse(ctx, n); err != nil {
			return nil, err
		}
	}
	return s.Connector.Connect(ctx)
}

var errScarce = &pq.Error{Severity: "FATAL", Code: "53300", Message: "sorry, too many clients already"}

// A probe that cannot connect is told and made again, and costs no good session.
func TestProbeThatCannotConnect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		pooled bool
		option func(*pgnotify.ListenerConfig)
	}{
		{"pooler", true, func(*pgnotify.ListenerConfig) {}},
		{"DeliveryProbe", false, probing},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _ := served(t, c.pooled, false)
			const refusals = 3
			c1 := &scarce{Connector: connector(t, s.DSN()), refuse: func(_ context.Context, n int64) error {
				if n <= refusals {
					return errScarce
				}
				return nil
			}}
			l, events := listenBy(t, c1, beating, c.option)
			sub := subscribe(t, l, "a")
			for i := range refusals {
				e := events.await(t, pgnotify.ListenerProbeFailed, i+1)
				if !errors.Is(e.Err, errScarce) || e.Attempt != i+1 || e.PID != pgfake.PID {
					t.Errorf("%v", e)
				}
			}
			until(t, "the probe was made", func() bool { return s.Sessions() == 2 })
			beats(t, l, 20)
			s.notify(0)
			wantPayload(t, sub, "1")
			if n := c1.refused.Load(); n != 2+refusals {
				t.Errorf("%d connections", n)
			}
			if lost := events.all(pgnotify.ListenerDisconnected, pgnotify.ListenerReconnecting); len(lost) > 0 {
				t.Errorf("%v", lost)
			}
		})
	}
}

// A probe that hangs holds up nothing but its own verdict: not heartbeats, not those who
// subscribe once it is known that it tells nothing, and not Close.
func TestProbeThatHangs(t *testing.T) {
	t.Parallel()
	s, _ := served(t, true, false)
	hanging := make(chan struct{}, 10)
	l, events := listenBy(t, &scarce{Connector: connector(t, s.DSN()), refuse: func(ctx context.Context, n int64) error {
		if n == 1 {
			return errScarce
		}
		hanging <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}, quickRetries)
	sub := subscribe(t, l, "a")
	events.await(t, pgnotify.ListenerProbeFailed, 1)
	recv(t, hanging)
	beats(t, l, 3)
	subscribe(t, l, "b")
	s.notify(0)
	wantPayload(t, sub, "1")
	closeAtOnce(t, l)
}

// The same for the first probe, before which Subscribe does not return: it ends with its
// context, and with Close.
func TestFirstProbeThatHangs(t *testing.T) {
	t.Parallel()
	s, _ := served(t, true, false)
	hanging := make(chan struct{}, 10)
	l, _ := listenBy(t, &scarce{Connector: connector(t, s.DSN()), refuse: func(ctx context.Context, _ int64) error {
		hanging <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(testContext(t))
	first := async(t, func() error { _, err := l.Subscribe(ctx, "a"); return err })
	recv(t, hanging)
	cancel()
	if err := recv(t, first); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	second := async(t, func() error { _, err := l.Subscribe(testContext(t), "a"); return err })
	ping := async(t, func() error { _, err := l.Ping(testContext(t)); return err })
	until(t, "both wait", func() bool { return l.Pings() == 1 && l.Stats().Subscriptions == 1 })
	closeAtOnce(t, l)
	for _, done := range []<-chan error{second, ping} {
		if err := recv(t, done); !errors.Is(err, pgnotify.ErrClosed) {
			t.Error(err)
		}
	}
}

func probing(c *pgnotify.ListenerConfig) { c.DeliveryProbe = true }
