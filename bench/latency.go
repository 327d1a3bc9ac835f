package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify"
)

// What a latency scenario records.
const (
	latencyMicros = "latency" // of each notification
	roundMedian   = "median"  // of a round's
	roundP99      = "p99"     // the same
	busyRate      = "busy"    // notifications over the busy channel, a second
)

// Labels of how latencies compare with the better one of lib/pq's and pgx's.
const (
	latencyMedianLabel = "median, times the best peer's"
	latencyP99Label    = "99th percentile, times the best peer's"
)

// busyLabel is the label of how much else the session hears.
const busyLabel = "others heard by the way, a second"

// Under load a session also hears as many others as this, a burst after the other.
const (
	busyBurst    = 5
	busyInterval = time.Millisecond
)

// idlePause is between a notification that was heard and the next one, so that
// everything sleeps again.
const idlePause = time.Millisecond

// latencyScenarios are notifications, one at a time, from the start of NOTIFY in
// another session to the program that hears them; on a session that is otherwise
// idle, and on one that hears thousands of others.
func latencyScenarios() []scenario {
	var scenarios []scenario
	for _, load := range []struct {
		name, about string
		busy        bool
	}{
		{"latency/idle", "from before NOTIFY to the program, one at a time", false},
		{"latency/busy", "the same, on a session that hears thousands a second of others", true},
	} {
		s := scenario{
			name:   load.name,
			about:  load.about,
			unit:   "notifications",
			count:  400,
			quick:  50,
			rounds: 12,
			metrics: []metric{
				{label: "latency, µs", quantity: latencyMicros, summary: medianOf},
				{label: "the same, 99th percentile", quantity: latencyMicros, summary: p99Of},
				{label: latencyMedianLabel, quantity: roundMedian, summary: medianOf, base: latencyPeers, relate: ratio},
				{label: latencyP99Label, quantity: roundP99, summary: medianOf, base: latencyPeers, relate: ratio},
			},
		}
		if load.busy {
			s.metrics = append(s.metrics, metric{label: busyLabel, quantity: busyRate, summary: medianOf})
		}
		for i, e := range ears {
			hot, busy := fmt.Sprintf("hot_%d_%d", os.Getpid(), i), fmt.Sprintf("busy_%d_%d", os.Getpid(), i)
			s.contenders = append(s.contenders, contender{name: e.name, start: func(ctx context.Context, dsn string) (*worker, error) {
				return startLatency(ctx, dsn, e.open, hot, busy, load.busy)
			}})
		}
		scenarios = append(scenarios, s)
	}
	return scenarios
}

// An ear hears channels until it is closed: it calls hear for each notification,
// and fail when it can not go on.
type ear func(ctx context.Context, dsn string, channels []string, hear func(channel, payload string), fail func(error)) (close func() error, err error)

const handlerName = "Conn, handler"

var (
	ears = []struct {
		name string
		open ear
	}{
		{connName, iteratorEar},
		{handlerName, handlerEar},
		{listenerName, listenerEar},
		{libpqListenerName, libpqEar},
		{pgxConnName, pgxEar},
		{bareReaderName, bareEar},
	}
	latencyPeers = []string{libpqListenerName, pgxConnName}
)

// A latencyMeter sends, and hears what it has sent.
type latencyMeter struct {
	hot, busy string
	epoch     time.Time
	sender    *sql.DB // lib/pq's for all contenders
	loader    *sql.DB // the same; nil without load
	heard     chan time.Duration
	failed    chan error
	others    atomic.Int64
}

func startLatency(ctx context.Context, dsn string, open ear, hot, busy string, load bool) (_ *worker, err error) {
	m := &latencyMeter{hot: hot, busy: busy, epoch: time.Now(), heard: make(chan time.Duration, 1), failed: make(chan error, 1)}
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = joinClose(err, closeAll)
		}
	}()
	if m.sender, err = (sqlDriver{registered: "postgres"}).open(ctx, dsn); err != nil {
		return nil, err
	}
	closers = append(closers, m.sender.Close)
	channels := []string{hot}
	if load {
		if m.loader, err = (sqlDriver{registered: "postgres"}).open(ctx, dsn); err != nil {
			return nil, err
		}
		closers = append(closers, m.loader.Close)
		channels = append(channels, busy)
	}
	closeEar, err := open(ctx, dsn, channels, m.hear, m.fail)
	if err != nil {
		return nil, err
	}
	closers = append(closers, closeEar)
	return &worker{m.round, closeAll}, nil
}

// hear is called with each notification. The clock stops first.
func (m *latencyMeter) hear(channel, payload string) {
	if channel != m.hot {
		m.others.Add(1)
		return
	}
	now := time.Since(m.epoch)
	sent, err := strconv.ParseInt(payload, 10, 64)
	if err != nil {
		m.fail(err)
		return
	}
	m.heard <- now - time.Duration(sent)
}

func (m *latencyMeter) fail(err error) {
	select {
	case m.failed <- err:
	default:
	}
}

func (m *latencyMeter) round(ctx context.Context, count int, r record) (err error) {
	if m.loader != nil {
		loading, stop := context.WithCancel(ctx)
		var load sync.WaitGroup
		load.Go(func() { m.load(loading) })
		began, before := time.Now(), m.others.Load()
		defer func() {
			r.add(busyRate, float64(m.others.Load()-before)/time.Since(began).Seconds())
			stop()
			load.Wait()
		}()
	}
	var all []float64
	for range count {
		latency, err := m.once(ctx)
		if err != nil {
			return err
		}
		all = append(all, micros(latency))
		time.Sleep(idlePause)
	}
	r[latencyMicros] = append(r[latencyMicros], all...)
	r.add(roundMedian, quantile(all, 0.5))
	r.add(roundP99, quantile(all, 0.99))
	return nil
}

// once sends the time, and returns how much later it is heard.
func (m *latencyMeter) once(ctx context.Context) (time.Duration, error) {
	notify := "NOTIFY " + m.hot + ", '" + strconv.FormatInt(int64(time.Since(m.epoch)), 10) + "'"
	if _, err := m.sender.ExecContext(context.WithoutCancel(ctx), notify); err != nil {
		return 0, err
	}
	select {
	case latency := <-m.heard:
		return latency, nil
	case err := <-m.failed:
		return 0, err
	case <-time.After(10 * time.Second):
		return 0, errors.New("a notification has not come")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// load sends to the busy channel until ctx ends.
func (m *latencyMeter) load(ctx context.Context) {
	ticker := time.NewTicker(busyInterval)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		_, err := m.loader.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf(
			"select pg_notify('%s', '%d ' || i) from generate_series(1, %d) i", m.busy, n, busyBurst))
		if err != nil {
			m.fail(err)
			return
		}
	}
}

// iteratorEar is pgnotify's Conn.Notifications.
func iteratorEar(ctx context.Context, dsn string, channels []string, hear func(string, string), fail func(error)) (func() error, error) {
	pc, close, err := openConn(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	return whileOpen(ctx, func(ctx context.Context) {
		for n, err := range pc.Notifications(ctx) {
			if err != nil {
				fail(err)
				return
			}
			hear(n.Channel, n.Payload)
		}
	}, close), nil
}

// handlerEar is pgnotify's Conn.AddNotificationHandler.
func handlerEar(ctx context.Context, dsn string, channels []string, hear func(string, string), _ func(error)) (func() error, error) {
	pc, close, err := openConn(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	pc.AddNotificationHandler(func(n pgnotify.Notification) { hear(n.Channel, n.Payload) })
	return close, nil
}

// listenerEar is pgnotify's Subscription.Events.
func listenerEar(ctx context.Context, dsn string, channels []string, hear func(string, string), fail func(error)) (func() error, error) {
	l, err := openListener(dsn)
	if err != nil {
		return nil, err
	}
	sub, err := l.Subscribe(ctx, channels...)
	if err != nil {
		return nil, joinClose(err, l.Close)
	}
	return whileOpen(ctx, func(context.Context) {
		for e := range sub.Events() {
			if e.Gap != nil {
				fail(errors.New(e.Gap.String()))
				return
			}
			hear(e.Channel, e.Payload)
		}
	}, l.Close), nil
}

// libpqEar is lib/pq's Listener.Notify.
func libpqEar(ctx context.Context, dsn string, channels []string, hear func(string, string), fail func(error)) (func() error, error) {
	l, err := listenLibpq(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	return whileOpen(ctx, func(context.Context) {
		for n := range l.Notify {
			if n == nil {
				fail(errEnded)
				return
			}
			hear(n.Channel, n.Extra)
		}
	}, l.Close), nil
}

// pgxEar is pgx's Conn.WaitForNotification.
func pgxEar(ctx context.Context, dsn string, channels []string, hear func(string, string), fail func(error)) (func() error, error) {
	c, err := openPgx(ctx, dsn, channels)
	if err != nil {
		return nil, err
	}
	end := whileOpen(ctx, func(ctx context.Context) {
		for {
			n, err := c.WaitForNotification(ctx)
			if err != nil {
				fail(err)
				return
			}
			hear(n.Channel, n.Payload)
		}
	}, func() error { return nil })
	return func() error { return joinClose(end(), func() error { return closePgx(c) }) }, nil // not safe before the end
}

// whileOpen runs f on a goroutine, and returns what ends it, by the end of its
// context or by close, whichever it takes notice of.
func whileOpen(ctx context.Context, f func(context.Context), close func() error) func() error {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // joined by what is returned
		defer func() { done <- struct{}{} }()
		f(ctx)
	}()
	return func() error {
		stop()
		err := close()
		<-done
		return err
	}
}
