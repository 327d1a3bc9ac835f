package pgnotify

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"
)

// A GapCause says why notifications may be missing.
type GapCause int

const (
	// GapOverflow: notifications came faster than they were taken.
	GapOverflow GapCause = iota + 1
	// GapReconnect: the session of a Listener was lost, and another one listens
	// now. What was sent in between was not heard.
	GapReconnect
	// GapListenLost: the session of a Listener lives, but it did not listen any
	// more. It does again.
	GapListenLost
	// GapSubscribed: the subscription has begun. Only [SubscriptionConfig].CatchUp
	// is told.
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

// A Gap is a place in a stream of notifications where some may be missing: from
// here on, look again at what they would have told. It is a value that stays
// valid.
type Gap struct {
	Cause    GapCause
	Err      error     // what lies behind the cause, nil where nothing does
	From, To time.Time // when the first and the last one can have been missed, by this program's clock
	Dropped  uint64    // how many were received and not kept
}

// String names the cause, and how many were dropped.
func (g Gap) String() string {
	text := g.Cause.String()
	if g.Dropped > 0 {
		text += fmt.Sprintf(", %d were dropped", g.Dropped)
	}
	if g.Err != nil {
		text += ": " + withoutPackage(g.Err)
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

// and returns the gap that g and a later one make together, either of which may
// be nil. It changes g. An overflow says less than another cause.
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

// dropped returns the gap, which may be nil, with n more notifications missing.
// It changes g.
func (g *Gap) dropped(n int) *Gap {
	now := time.Now()
	if g == nil {
		g = &Gap{Cause: GapOverflow, From: now}
	}
	g.To = now
	g.Dropped += uint64(n)
	return g
}

// A GapError carries a Gap through an iterator of notifications. The iteration
// may go on after it.
type GapError struct{ Gap Gap }

// Error names the cause, and how many were dropped.
func (e *GapError) Error() string {
	return "pgnotify: notifications may be missing: " + e.Gap.String()
}

// Unwrap returns what lies behind the gap.
func (e *GapError) Unwrap() error { return e.Gap.Err }
