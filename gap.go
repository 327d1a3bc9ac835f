package pgnotify

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// A GapCause says why notifications may be missing.
type GapCause int

const (
	// GapOverflow: notifications came faster than the program took them.
	GapOverflow GapCause = iota + 1
	// GapReconnect: the session of a Listener was lost, and another one listens now.
	// What was sent in between was not received.
	GapReconnect
	// GapListenLost: the session of a Listener was alive but no longer listened. It
	// listens again.
	GapListenLost
	// GapSubscribed: the subscription has begun. Only [SubscriptionConfig].CatchUp gets
	// this cause.
	GapSubscribed
)

var gapTexts = [...]string{
	GapOverflow:   "the queue was full",
	GapReconnect:  "the session was lost, and is replaced",
	GapListenLost: "the session did not listen any more",
	GapSubscribed: "the subscription begins",
}

// String returns the cause in words.
func (c GapCause) String() string {
	if c < GapOverflow || int(c) >= len(gapTexts) {
		return fmt.Sprintf("GapCause(%d)", int(c))
	}
	return gapTexts[c]
}

// A Gap marks a place in a stream of notifications where some may be missing: from here
// on, look again at what they would have told. A Gap may be kept.
type Gap struct {
	Cause GapCause
	Err   error // the error behind the cause; nil if there is none

	// From and To are when the first and the last one can have been missed, by this
	// program's clock. Of a Listener whose session was lost or did not listen, From is
	// when the last heartbeat or [Listener.Ping] that the server answered had been
	// sent or, before the first one, when the session began: it may be earlier than
	// notifications that were received, and never later than one that was missed.
	From, To time.Time

	Dropped uint64 // how many were received and discarded
}

// String returns the cause, the number dropped, and the error.
func (g Gap) String() string {
	text := g.Cause.String()
	if g.Dropped > 0 {
		text += fmt.Sprintf(", %d were dropped", g.Dropped)
	}
	if g.Err != nil {
		text += ": " + strings.TrimPrefix(withoutPackage(g.Err), "session lost: ")
	}
	return text
}

// LogValue implements [slog.LogValuer].
func (g Gap) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("cause", g.Cause.String())}
	if g.Dropped > 0 {
		attrs = append(attrs, slog.Uint64("dropped", g.Dropped))
	}
	if g.Err != nil {
		attrs = append(attrs, slog.String("error", g.Err.Error()))
	}
	return slog.GroupValue(append(attrs, slog.Time("from", g.From), slog.Time("to", g.To))...)
}

// and merges g and a later gap, either of which may be nil, into g and returns it. Any
// other cause takes precedence over an overflow.
func (g *Gap) and(later *Gap) *Gap {
	if g == nil || later == nil {
		return cmp.Or(g, later)
	}
	if g.Cause == GapOverflow {
		g.Cause, g.Err = later.Cause, later.Err
	}
	g.Dropped += later.Dropped
	g.From, g.To = earlier(g.From, later.From), later.To
	return g
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// dropped counts n more missing notifications in g, or in a new gap if g is nil, and
// returns it.
func (g *Gap) dropped(n int) *Gap {
	now := time.Now()
	if g == nil {
		g = &Gap{Cause: GapOverflow, From: now}
	}
	g.To = now
	g.Dropped += uint64(n)
	return g
}

// A GapError carries a Gap out of an iteration or a wait for notifications, which may
// go on after it.
type GapError struct{ Gap Gap }

// Error returns the text of the Gap.
func (e *GapError) Error() string {
	return "pgnotify: notifications may be missing: " + e.Gap.String()
}

// Unwrap returns the error behind the gap, which may be nil.
func (e *GapError) Unwrap() error { return e.Gap.Err }
