package pgnotify

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/lib/pq"
)

// maxListenerEvents is how many events may wait for ListenerConfig.OnEvent.
const maxListenerEvents = 256

// A ListenerEventKind says what has happened to a [Listener].
type ListenerEventKind int

const (
	// ListenerConnected: a session listens to all channels that are wanted.
	ListenerConnected ListenerEventKind = iota + 1
	// ListenerDisconnected: a connected session was lost, and Err is a
	// *[DisconnectError]; or it was given up because the server refused a request of
	// the Listener, such as LISTEN on a standby, and Err is the server's error; or
	// because notifications do not arrive over it, and Err is [ErrNotSupported].
	ListenerDisconnected
	// ListenerReconnecting: the next attempt comes after Delay. Err is why the previous
	// one failed; it is nil for the first after a loss.
	ListenerReconnecting
	// ListenerGap: subscribers get a gap, Gap, because a session was lost or did not
	// listen. There is one event for all of them. If the session was lost, it precedes
	// ListenerConnected.
	ListenerGap
	// ListenerSlowConsumer: the queue of a subscriber to Channels was full. It is
	// reported at most once a second for each subscriber, and 32 times a second in all.
	ListenerSlowConsumer
	// ListenerClosed: the Listener was closed. It is the last event.
	ListenerClosed
	// ListenerProbeFailed: it is not known whether notifications arrive, because a
	// delivery probe could not be made: its own session could not be opened, say. Err is
	// the reason. The Listener's session goes on, and is probed again after Delay.
	ListenerProbeFailed
)

var listenerEventTexts = [...]string{
	ListenerConnected:    "connected",
	ListenerDisconnected: "disconnected",
	ListenerReconnecting: "reconnecting",
	ListenerGap:          "gap",
	ListenerSlowConsumer: "slow consumer",
	ListenerClosed:       "closed",
	ListenerProbeFailed:  "probe failed",
}

// String returns the kind in words.
func (k ListenerEventKind) String() string {
	if k < ListenerConnected || int(k) >= len(listenerEventTexts) {
		return fmt.Sprintf("ListenerEventKind(%d)", int(k))
	}
	return listenerEventTexts[k]
}

// A ListenerEvent reports what has happened to a [Listener]. Fields that do not apply
// to its Kind are zero.
type ListenerEvent struct {
	Kind     ListenerEventKind
	Time     time.Time
	Err      error
	Host     string        // that the session is connected to
	PID      uint32        // of the session
	Attempt  int           // to reconnect, or to probe, from 1
	Delay    time.Duration // before the attempt, or the next probe
	Gap      *Gap          // not to be changed
	Channels []string      // not to be changed
}

// attrs returns the fields that apply to the event.
func (e ListenerEvent) attrs() []slog.Attr {
	var attrs []slog.Attr
	if e.Host != "" {
		attrs = append(attrs, slog.String("host", e.Host), slog.Uint64("pid", uint64(e.PID)))
	}
	if e.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", e.Attempt), slog.Duration("delay", e.Delay))
	}
	if len(e.Channels) > 0 {
		attrs = append(attrs, slog.String("channels", strings.Join(e.Channels, " ")))
	}
	if e.Gap != nil {
		attrs = append(attrs, slog.Any("gap", *e.Gap))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	var server *pq.Error
	if errors.As(e.Err, &server) && server.Hint != "" {
		attrs = append(attrs, slog.String("hint", server.Hint))
	}
	return attrs
}

// String returns one line of text for people.
func (e ListenerEvent) String() string {
	text := e.Kind.String()
	if e.Gap != nil {
		text += ": " + e.Gap.String()
	}
	for _, a := range e.attrs() {
		if a.Key != "gap" {
			text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
	}
	return text
}

// LogValue implements [slog.LogValuer].
func (e ListenerEvent) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("kind", e.Kind.String())}, e.attrs()...)...)
}

// level returns the log level of the event.
func (e ListenerEvent) level() slog.Level {
	switch e.Kind {
	case ListenerConnected:
		return slog.LevelInfo // the end of an outage that was logged as a warning
	case ListenerClosed:
		return slog.LevelDebug
	case ListenerReconnecting:
		if e.Err == nil {
			return slog.LevelDebug
		}
	}
	return slog.LevelWarn
}

// tell queues an event for OnEvent and the log. It never blocks.
func (l *Listener) tell(e ListenerEvent) {
	e.Time = time.Now()
	if e.Kind == ListenerClosed {
		l.events.PutLast(e)
	} else {
		l.events.Put(e, 0)
	}
}

// handle logs an event and calls OnEvent.
func (l *Listener) handle(e ListenerEvent) {
	if dropped := l.events.Dropped(); dropped > l.droppedEvents {
		l.config.Logger.Warn("pgnotify: OnEvent does not keep up", "dropped events", dropped-l.droppedEvents)
		l.droppedEvents = dropped
	}
	l.config.Logger.LogAttrs(background, e.level(), "pgnotify: listener: "+e.Kind.String(), e.attrs()...)
	if l.config.OnEvent == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			l.config.Logger.Error("pgnotify: OnEvent panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	l.config.OnEvent(e)
}
