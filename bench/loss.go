package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/pgnotify/pgnotify"
)

// lossMicros is what a loss scenario records of each loss: from the server's
// closing of the connection to that of Disconnected.
const lossMicros = "loss"

// lossesInRound is how many sessions are lost in a round, one after the other.
const lossesInRound = 100

// lossScenario has one session lost, with others beside it that are watched too.
// lib/pq and pgx tell of a loss when the session is used next, so they have no
// part in it.
func lossScenario() scenario {
	count, remark := sessionsToHave()
	s := scenario{
		name:   "loss",
		about:  fmt.Sprintf("the server closes one idle session of many, %d times a round", lossesInRound) + remark,
		unit:   "watched sessions at most",
		count:  count,
		quick:  min(count, 300),
		rounds: 5,
		metrics: []metric{
			{label: "FIN to Disconnected, µs", quantity: lossMicros, summary: medianOf},
			{label: "the same, 99th percentile", quantity: lossMicros, summary: p99Of},
		},
	}
	for _, c := range []struct {
		name  string
		share func(count int) int
	}{
		{"1 watched", func(int) int { return 1 }},
		{"100 watched", func(count int) int { return min(100, count) }},
		{"all watched", func(count int) int { return count }},
	} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, _ string) (*worker, error) {
			l, err := startLoser(ctx)
			if err != nil {
				return nil, err
			}
			return &worker{
				work:  func(ctx context.Context, count int, r record) error { return l.round(ctx, c.share(count), r) },
				close: l.close,
			}, nil
		}})
	}
	return s
}

// A loser loses sessions. The server of these is in this process, so that there
// is one clock; those that stay are at a greeter.
type loser struct {
	others    *child
	listener  net.Listener
	connector *pgnotify.Connector // of those that are lost
	ends      chan net.Conn       // the server's, one for each session
}

func startLoser(ctx context.Context) (*loser, error) {
	listener, dsn, err := listen()
	if err != nil {
		return nil, err
	}
	connector, err := dialingConnector(dsn, true)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	others, err := startChild(ctx, greeterFlag)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	l := &loser{others: others, listener: listener, connector: connector, ends: make(chan net.Conn, 1)}
	go l.serve() // ends with the listener
	return l, nil
}

func (l *loser) serve() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		if greet(c) != nil {
			c.Close()
			continue
		}
		l.ends <- c
	}
}

func (l *loser) close() error { return errors.Join(l.listener.Close(), l.others.close()) }

// round has a number of sessions watched, of which one is lost again and again.
func (l *loser) round(ctx context.Context, watched int, r record) (err error) {
	db, err := openWatched(true)(l.others.dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := fill(ctx, db, watched-1); err != nil {
		return err
	}
	runtime.GC() // or the collector is busy with what filling has left
	for range lossesInRound {
		if err := l.lose(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// lose connects a session and has the server close it.
func (l *loser) lose(ctx context.Context, r record) error {
	c, err := l.connector.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	session, server := c.(*pgnotify.Conn), <-l.ends
	lost := session.Disconnected()
	if err := session.DisconnectErr(); err != nil {
		server.Close()
		return fmt.Errorf("before the end: %w", err)
	}

	start := time.Now()
	server.Close()
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		return errors.New("nothing is told of the end of a session")
	}
	r.add(lossMicros, micros(time.Since(start)))
	if err := session.DisconnectErr(); !pgnotify.IsDisconnect(err) {
		return fmt.Errorf("told, but not as a loss: %v", err)
	}
	return nil
}
