package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/pgnotify/pgnotify"
)

// maxBackoff is shorter than the Listener's default, because somebody may be looking.
const maxBackoff = 5 * time.Second

// sessionFlags say how to get a session.
type sessionFlags struct {
	dsn   string
	wait  bool // for a server that is not there at the start
	probe bool // that notifications arrive
}

// A session is a Listener that reports what happens to it.
type session struct {
	*pgnotify.Listener
	out   *output
	fail  func(error)
	begun atomic.Bool   // from now on failures are waited out
	there chan struct{} // closed when the first connection was reported
	once  sync.Once     // to close it
	over  chan struct{} // closed with the last event

	outage outage // for tell alone
}

// repeatAfter is how often an outage is reported while its error stays the same.
const repeatAfter = 5 * time.Second

// An outage is what was last printed about the attempts to get a session.
type outage struct {
	text string // the error; "" if there is a session
	at   time.Time
}

// tells reports whether to print another failed attempt. It is the same error if only
// digits differ, such as those of a local port.
func (o *outage) tells(e pgnotify.ListenerEvent) bool {
	text := strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return '0'
		}
		return r
	}, e.Err.Error())
	if text == o.text && e.Time.Sub(o.at) < repeatAfter {
		return false
	}
	o.text, o.at = text, e.Time
	return true
}

// openSession returns a session. If the session cannot begin, and that is not waited
// out, it calls fail. The session must be closed.
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

// tell prints an event. The Listener calls it on its goroutine for events.
func (s *session) tell(e pgnotify.ListenerEvent) {
	switch e.Kind {
	case pgnotify.ListenerReconnecting:
		if e.Err != nil && !s.begun.Load() {
			s.fail(e.Err)
			return
		}
		if e.Err == nil || s.out.json || s.outage.tells(e) {
			s.out.session(e)
		}
	case pgnotify.ListenerDisconnected:
		s.out.session(e)
	case pgnotify.ListenerProbeFailed:
		if s.out.json || s.outage.tells(e) {
			s.out.session(e)
		}
	case pgnotify.ListenerConnected:
		s.outage = outage{}
		s.out.session(e)
		s.once.Do(func() { close(s.there) })
	case pgnotify.ListenerClosed:
		close(s.over)
	}
}

// ready waits until the first connection was reported, so that what depends on it is
// printed later.
func (s *session) ready(ctx context.Context) {
	s.begun.Store(true)
	select {
	case <-s.there:
	case <-ctx.Done():
	}
}

// close ends the session, after which nothing is printed. It returns err, the error of
// the command, unless output could not be written.
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
