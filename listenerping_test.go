package pgnotify_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// handed is an option that hands out the sessions of a Listener.
func handed(conns chan *pgnotify.Conn) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error { conns <- c; return nil }
	}
}

// A Ping that comes while a LISTEN that got lost is mended has a heartbeat of its own,
// and each counts the channels as they are then.
func TestPingDuringARepair(t *testing.T) {
	t.Parallel()
	channel := uniqueName("h")
	conns := make(chan *pgnotify.Conn, 1)
	var asked, listens atomic.Int64
	held, goOn := make(chan struct{}), make(chan struct{})
	hold := onWrite(func(p []byte) {
		if bytes.Contains(p, []byte("pg_listening_channels")) {
			asked.Add(1)
		}
		if bytes.Contains(p, []byte(`LISTEN "`+channel)) && listens.Add(1) == 2 {
			close(held)
			<-goOn
		}
	})
	l, _ := listenBy(t, connector(t, dsn(t), hold, handed(conns)), func(c *pgnotify.ListenerConfig) { c.Heartbeat = -1 })
	subscribe(t, l, channel)
	if _, err := recv(t, conns).ExecContext(testContext(t), "unlisten *", nil); err != nil {
		t.Fatal(err)
	}
	ping := func() error {
		health, err := l.Ping(testContext(t))
		if err == nil && health.Channels != 1 {
			t.Errorf("%d channels, after the repair", health.Channels)
		}
		return err
	}
	first := async(t, ping)
	recv(t, held)
	second := async(t, ping)
	until(t, "the second Ping waits", func() bool { return l.Pings() == 2 })
	close(goOn)
	for _, done := range []<-chan error{first, second} {
		if err := recv(t, done); err != nil {
			t.Error(err)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d heartbeats for 2 Pings", n)
	}
}
