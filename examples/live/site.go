package main

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/pgnotify/pgnotify/examples/live/internal/feed"
)

// A site is the page on a port of this machine.
type site struct {
	db     *sql.DB
	radio  *radio
	server *http.Server
	url    string
	failed chan error // why the server has ended, once
	hangUp context.CancelFunc
}

// open begins to serve.
func (s *site) open() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // this machine only
	if err != nil {
		return err
	}
	s.url = "http://" + listener.Addr().String() + "/"
	s.failed = make(chan error, 1)
	var streams context.Context
	streams, s.hangUp = context.WithCancel(context.Background())
	s.server = &http.Server{
		Handler:           feed.New(s.db, s.radio.Listener, s.lose),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ConnContext:       smallBuffer,
	}
	go func() { s.failed <- s.server.Serve(listener) }() // ends with Close
	return nil
}

// smallBuffer limits the kernel to 16 kB for a browser that reads nothing, instead of
// megabytes.
func smallBuffer(ctx context.Context, conn net.Conn) context.Context {
	_ = conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
	return ctx
}

// serve serves until ctx ends.
func (s *site) serve(ctx context.Context) error {
	printLine("%s is the page; Ctrl-C ends it", s.url)
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// lose ends the listener's session for a second, during which it inserts an entry.
func (s *site) lose(ctx context.Context) error {
	if err := s.radio.leave(ctx); err != nil {
		return err
	}
	defer s.radio.comeIn()
	if err := s.radio.cut(ctx, s.db); err != nil {
		return err
	}
	if err := feed.Insert(ctx, s.db, "While the listener was away"); err != nil {
		return err
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return nil
}

// Close ends the streams, which would last for as long as the browsers like, and then
// the server.
func (s *site) Close() error {
	s.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.server.Close()
	}
	return err
}
