package pgnotify_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// What the Listener takes for proof, that its LISTEN was made or that its session is
// silent, has to be one.

// holdBack delays the first write that contains text, until held is closed.
func holdBack(text string) (sending, held chan struct{}, option func(*pgnotify.Config)) {
	sending, held = make(chan struct{}), make(chan struct{})
	var once sync.Once
	return sending, held, onWrite(func(p []byte) {
		if bytes.Contains(p, []byte(text)) {
			once.Do(func() { close(sending); <-held })
		}
	})
}

// L10: a session that listens already, by a command tag or without one, does not make
// the Listener believe that its own LISTEN has been made: it has not been sent yet.
func TestSessionThatListensAlready(t *testing.T) {
	t.Parallel()
	for name, listens := range map[string]func(channel string) string{
		"statement": func(channel string) string { return "listen " + channel },
		"function":  func(channel string) string { return "do $$ begin execute 'listen " + channel + "'; end $$" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, dsn(t))
			early, late := uniqueName("a"), uniqueName("b")
			sending, held, hold := holdBack(late)
			l, _ := listenBy(t, connector(t, dsn(t), hold, func(c *pgnotify.Config) {
				c.OnConnect = func(ctx context.Context, c *pgnotify.Conn) error {
					_, err := c.ExecContext(ctx, listens(early), nil)
					return err
				}
			}))
			subscribed := make(chan *pgnotify.Subscription, 1)
			done := async(t, func() error {
				sub, err := l.Subscribe(testContext(t), early, late)
				subscribed <- sub
				return err
			})
			recv(t, sending)
			notify(t, db, early, "before")
			select {
			case <-subscribed:
				t.Error("Subscribe has returned before LISTEN was sent")
			case <-time.After(200 * time.Millisecond): // for what was heard to come
			}
			close(held)
			if err := recv(t, done); err != nil {
				t.Fatal(err)
			}
			sub := recv(t, subscribed)
			notify(t, db, late, "after")
			wantPayload(t, sub, "after")
		})
	}
}

// listenQuietly is listen without heartbeats, but for those of Ping.
func listenQuietly(t *testing.T, dsn string, options ...func(*pgnotify.ListenerConfig)) (*pgnotify.Listener, *recorder) {
	t.Helper()
	return listen(t, dsn, append(options, func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })...)
}

// heartbeatAnswer is what a server process that listens to channels answers.
func heartbeatAnswer(pid int, channels ...string) pgfake.Step {
	return pgfake.Send(heartbeatFrames(pid, channels...)...)
}

func heartbeatFrames(pid int, channels ...string) [][]byte {
	columns := "\x00\x04"
	for _, oid := range []uint32{23, 16, 701, 25} { // integer, boolean, double precision, text
		columns += "c\x00\x00\x00\x00\x00\x00\x00" + string(binary.BigEndian.AppendUint32(nil, oid)) + "\xff\xff\xff\xff\xff\xff\x00\x00"
	}
	return [][]byte{pgfake.Frame('T', columns), pgfake.Row(fmt.Sprint(pid), "f", "0.25", "{"+strings.Join(channels, ",")+"}"),
		pgfake.Complete("SELECT 1"), pgfake.Ready('I')}
}

// L3, L7: behind a pooler the session gets another server process, which listens to one
// of the channels already. The gap waits for the LISTEN, which mends the other one.
func TestSessionMovedToOneThatListens(t *testing.T) {
	t.Parallel()
	moved, listen := make(chan struct{}), make(chan struct{})
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN", "LISTEN"),
		pgfake.Await('Q'), heartbeatAnswer(pgfake.PID, "a", "b"),
		pgfake.Await('Q'), heartbeatAnswer(2, "a"),
		pgfake.Await('Q'), pgfake.Send(pgfake.Notification(1, "a", "of the other")), func(*pgfake.Session) error { close(moved); return nil },
		pgfake.WaitFor(listen), acknowledgedBy(2, "LISTEN", "LISTEN"), pgfake.Send(pgfake.Notification(1, "b", "after")), listens(2)}, refusal)
	l, _ := listenQuietly(t, server.DSN())
	sub := subscribe(t, l, "a", "b")
	if _, err := l.Ping(testContext(t)); err != nil {
		t.Fatal(err)
	}
	pinged := async(t, func() error { _, err := l.Ping(testContext(t)); return err })
	recv(t, moved)
	until(t, "it was heard", func() bool { return l.Stats().Received == 1 })
	if n := l.Stats().Queued; n != 0 {
		t.Errorf("%d events, though the LISTEN has not been made", n)
	}
	close(listen)
	if err := recv(t, pinged); err != nil {
		t.Error(err)
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
		t.Errorf("%+v", gap)
	}
	wantPayload(t, sub, "after")
}

// L7: the same where the acknowledgement comes with what the other process has sent before
// it. Behind the gap, that would look as if nothing were missing after it.
func TestWhatComesBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	server := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN", "LISTEN"),
		pgfake.Await('Q'), heartbeatAnswer(pgfake.PID, "a", "b"),
		pgfake.Await('Q'), heartbeatAnswer(2, "a"),
		pgfake.Await('Q'), pgfake.Send(slices.Concat( // at once
			[][]byte{pgfake.Notification(1, "a", "before")}, tagFrames("LISTEN", "LISTEN"),
			[][]byte{pgfake.Notification(1, "a", "after")}, backendFrames(2))...),
		listens(2)}, refusal)
	l, _ := listenQuietly(t, server.DSN())
	sub := subscribe(t, l, "a", "b")
	for range 2 {
		if _, err := l.Ping(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapListenLost {
		t.Errorf("%+v", gap)
	}
	wantPayload(t, sub, "after")
}

// Promise 4: a session whose answer stands behind notifications is not silent.
func TestSessionIsNotSilentWhileNotificationsCome(t *testing.T) {
	t.Parallel()
	const timeout, notifications = 200 * time.Millisecond, 40
	server := pgfake.Start(t,
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Await('Q'),
			func(c *pgfake.Session) error { // for several times as long as a silence may last
				for i := range notifications {
					if err := pgfake.Send(pgfake.Notification(1, "a", fmt.Sprint(i)))(c); err != nil {
						return err
					}
					time.Sleep(timeout / 10)
				}
				return nil
			}, heartbeatAnswer(pgfake.PID, "a"), pgfake.Hang()},
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.Hang()},
	)
	l, events := listenQuietly(t, server.DSN(), func(c *pgnotify.ListenerConfig) { c.HeartbeatTimeout = timeout })
	sub := subscribe(t, l, "a")
	if _, err := l.Ping(testContext(t)); err != nil {
		t.Error(err)
	}
	for i := range notifications {
		wantPayload(t, sub, fmt.Sprint(i))
	}
	if lost := events.all(pgnotify.ListenerDisconnected); len(lost) > 0 {
		t.Errorf("%v", lost)
	}
}

// A session hears nothing while it is in a transaction: Connect refuses one that
// OnConnect has left there, and the Listener replaces one that has come there.
func TestSessionInATransaction(t *testing.T) {
	t.Parallel()
	var left sync.Once
	conns := make(chan *pgnotify.Conn, 10)
	l, events := listenBy(t, connector(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(ctx context.Context, c *pgnotify.Conn) (err error) {
			left.Do(func() { _, err = c.ExecContext(ctx, "begin", nil) })
			conns <- c
			return err
		}
	}), quickRetries)
	channel := uniqueName("tx")
	sub := subscribe(t, l, channel)
	first := events.await(t, pgnotify.ListenerReconnecting, 1)
	if first.Err == nil || !strings.Contains(first.Err.Error(), "OnConnect: it has left a transaction open") {
		t.Errorf("%v", first)
	}
	<-conns
	if _, err := recv(t, conns).ExecContext(testContext(t), "begin", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Ping(testContext(t)); err == nil || !strings.Contains(err.Error(), "in a transaction") {
		t.Errorf("Ping: %v", err)
	}
	if gap := event(t, sub).Gap; gap == nil {
		t.Error("no gap")
	}
	notify(t, open(t, dsn(t)), channel, "after")
	wantPayload(t, sub, "after")
}
