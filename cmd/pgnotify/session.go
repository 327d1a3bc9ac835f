package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify"
)

// maxBackoff is shorter than the Listener's default: somebody may be looking.
const maxBackoff = 5 * time.Second

// sessionFlags say how a session is come by.
type sessionFlags struct {
	dsn   string
	wait  bool // for a server that is not there at the start
	probe bool // that notifications arrive
}

// A session is a Listener that tells what happens to it.
type session struct {
	*pgnotify.Listener
	out   *output
	fail  func(error)
	begun atomic.Bool   // what goes wrong now is waited out
	there chan struct{} // closed when it was told of the first connection
	once  sync.Once     // to close it
	over  chan struct{} // closed with the last event
}

// openSession returns a session whose failure to begin, unless that is waited out, is
// told to fail. It must be closed.
func openSession(flags sessionFlags, out *output, fail func(error)) (*session, error) {
	connector, err := newConnector(flags.dsn)
	if err != nil {
		return nil, err
	}
	s := &session{out: out, fail: fail, there: make(chan struct{}), over: make(chan struct{})}
	s.begun.Store(flags.wait)
	s.Listener, err = pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		MaxBackoff:    maxBackoff,
		DeliveryProbe: flags.probe,
		OnEvent:       s.tell,
		Logger:        slog.New(slog.DiscardHandler),
	})
	return s, err
}

// tell tells an event. It is called on the Listener's goroutine for that.
func (s *session) tell(e pgnotify.ListenerEvent) {
	switch e.Kind {
	case pgnotify.ListenerReconnecting:
		if e.Err != nil && !s.begun.Load() {
			s.fail(e.Err)
			return
		}
		s.out.session(e)
	case pgnotify.ListenerDisconnected:
		s.out.session(e)
	case pgnotify.ListenerConnected:
		s.out.session(e)
		s.once.Do(func() { close(s.there) })
	case pgnotify.ListenerClosed:
		close(s.over)
	}
}

// ready waits until the first connection has been told of, so that what depends on
// it is told after it.
func (s *session) ready(ctx context.Context) {
	s.begun.Store(true)
	select {
	case <-s.there:
	case <-ctx.Done():
	}
}

// close ends the session, after which nothing is told, and returns err, with which
// the command has ended, unless what it told could not be written.
func (s *session) close(err error) error {
	s.Close()
	<-s.over
	if e := s.out.end(); e != nil {
		return e
	}
	return err
}

// why returns what has ended ctx, or else err.
func why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}
