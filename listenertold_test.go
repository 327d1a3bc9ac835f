package pgnotify_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// OnEvent is told of the loss of a session, though a crowd was too slow just before.
func TestSlowSubscribersCrowdOutNothing(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	var notes [][]byte
	for i := range 10 {
		notes = append(notes, pgfake.Notification(1, "a", fmt.Sprint(i)))
	}
	server := pgfake.Start(t,
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.WaitFor(goOn), pgfake.Send(notes...)},
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Hang()},
	)
	var l *pgnotify.Listener
	events := newRecorder()
	again := make(chan struct{})
	l, _ = listenQuietly(t, server.DSN(), func(c *pgnotify.ListenerConfig) {
		c.OnEvent = func(e pgnotify.ListenerEvent) {
			if events.record(e); e.Kind == pgnotify.ListenerSlowConsumer {
				<-again // what comes meanwhile waits
			}
		}
	})
	for range 1000 {
		subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{"a"}, QueueSize: 2})
	}
	events.await(t, pgnotify.ListenerConnected, 1)
	close(goOn)
	until(t, "reconnected", func() bool { return l.Stats().Reconnects == 1 })
	close(again)
	events.await(t, pgnotify.ListenerConnected, 2)
	for _, kind := range []pgnotify.ListenerEventKind{pgnotify.ListenerDisconnected, pgnotify.ListenerReconnecting, pgnotify.ListenerGap} {
		if len(events.all(kind)) != 1 {
			t.Errorf("told %d times of: %v", len(events.all(kind)), kind)
		}
	}
}

// OnEvent is told of a slow subscriber, though a gap is in its queue already.
func TestSlowSubscriberWithAGap(t *testing.T) {
	t.Parallel()
	for _, policy := range []pgnotify.OverflowPolicy{pgnotify.OverflowGap, pgnotify.OverflowDropOldest} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			db, channel := open(t, dsn(t)), uniqueName("slow")
			l, events := listen(t, dsn(t), quickRetries)
			subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 4, Overflow: policy})
			health, err := l.Ping(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			terminate(t, db, health.PID)
			events.await(t, pgnotify.ListenerConnected, 2)
			until(t, "the gap is there", func() bool { return l.Stats().Queued == 1 })
			notifyAtOnce(t, db, channel, "1", "2", "3", "4", "5", "6")
			events.await(t, pgnotify.ListenerSlowConsumer, 1)
		})
	}
}

// OnEvent is told of each gap that subscribers get, and with their times: also of one
// that comes before the session counts as connected, which a loss right behind the
// acknowledgement may be.
func TestGapThatSubscribersGetIsTold(t *testing.T) {
	t.Parallel()
	for range 50 {
		server := pgfake.Start(t,
			pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN")},
			pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Hang()},
		)
		l, events := listenQuietly(t, server.DSN())
		sub := subscribe(t, l, "a")
		gap := event(t, sub).Gap
		if told := events.await(t, pgnotify.ListenerGap, 1); gap == nil || told.Gap.From.After(gap.From) || told.Gap.Cause != gap.Cause {
			t.Errorf("the subscriber has %+v, and OnEvent %+v", gap, told.Gap)
		}
		l.Close()
	}
}

// The same where a session is lost while a LISTEN that got lost is mended.
func TestGapOfALossDuringARepair(t *testing.T) {
	t.Parallel()
	db, channel := open(t, dsn(t)), uniqueName("h")
	conns := make(chan *pgnotify.Conn, 10)
	var pid atomic.Uint32
	var listens atomic.Int64
	lose := onWrite(func(p []byte) {
		if bytes.Contains(p, []byte(`LISTEN "`+channel)) && listens.Add(1) == 2 {
			terminateAndWait(t, db, pid.Load())
		}
	})
	l, events := listenBy(t, connector(t, dsn(t), lose, handed(conns)), func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
	sub := subscribe(t, l, channel)
	session := recv(t, conns)
	pid.Store(session.PID())
	if _, err := session.ExecContext(testContext(t), "unlisten *", nil); err != nil {
		t.Fatal(err)
	}
	_, _ = l.Ping(testContext(t))
	gap, told := event(t, sub).Gap, events.await(t, pgnotify.ListenerGap, 1).Gap
	if gap == nil || told.From.After(gap.From) {
		t.Errorf("the subscriber has %+v, and OnEvent %+v", gap, told)
	}
}

// A blockedLog is a slog.Handler that blocks over handlers that do not keep up.
type blockedLog struct{ entered, leave chan struct{} }

func (blockedLog) Enabled(context.Context, slog.Level) bool { return true }
func (b blockedLog) WithAttrs([]slog.Attr) slog.Handler     { return b }
func (b blockedLog) WithGroup(string) slog.Handler          { return b }
func (b blockedLog) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "do not keep up") {
		close(b.entered)
		<-b.leave
	}
	return nil
}

// Promises 5 and 9: a Config.Logger that blocks holds up neither the reader nor Close.
func TestLogThatBlocksUnderTheReader(t *testing.T) {
	t.Parallel()
	log := blockedLog{make(chan struct{}), make(chan struct{})}
	t.Cleanup(func() { close(log.leave) })
	db, channel := open(t, dsn(t)), uniqueName("log")
	l, _ := listenBy(t, connector(t, dsn(t), func(c *pgnotify.Config) {
		c.OnNotification = func(*pgnotify.Conn, pgnotify.Notification) { <-log.leave }
		c.Logger = slog.New(log)
	}))
	subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 1 << 20})
	for range 5 {
		mustExec(t, db, "select count(pg_notify('"+channel+"', n || repeat('x', 1000))) from generate_series(1, 1000) n")
	}
	recv(t, log.entered)
	until(t, "all is heard", func() bool { return l.Stats().Received == 5000 })
	closeAtOnce(t, l)
}

// L19: a handler of the start-up's notices that blocks does not hold up Close.
func TestListenerClosesDuringTheStartUp(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(leave) })
	server := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"), pgfake.Parameter("server_version", "15.0"),
		pgfake.Parameter("client_encoding", "UTF8"), pgfake.Notice("WARNING", "01000", "welcome"), pgfake.Frame('K', "\x00\x00\x12\x34key!"), pgfake.Ready('I')),
		pgfake.Hang()})
	l, _ := listenBy(t, connector(t, server.DSN(), func(c *pgnotify.Config) {
		c.OnNotice = func(*pgnotify.Conn, *pgnotify.Notice) { close(entered); <-leave }
	}))
	recv(t, entered)
	began := time.Now()
	closeAtOnce(t, l)
	if took := time.Since(began); took > 900*time.Millisecond { // that long, a statement waits for its handlers
		t.Errorf("Close took %v", took)
	}
}
