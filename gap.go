package pgnotify

import (
	"fmt"
	"time"
)

// A GapCause says why notifications may be missing.
type GapCause int

const (
	// GapOverflow: notifications came faster than they were taken.
	GapOverflow GapCause = iota + 1
)

// String returns the cause in words.
func (c GapCause) String() string {
	if c == GapOverflow {
		return "the queue was full"
	}
	return fmt.Sprintf("GapCause(%d)", int(c))
}

// A Gap is a place in a stream of notifications where some may be missing: from
// here on, look again at what they would have told.
type Gap struct {
	Cause    GapCause
	Err      error     // what lies behind the cause, nil where nothing does
	From, To time.Time // when the first and the last one can have been missed
	Dropped  uint64    // how many were received and not kept
}

// A GapError carries a Gap through an iterator of notifications. The iteration
// may go on after it.
type GapError struct{ Gap Gap }

// Error names the cause, and how many were dropped.
func (e *GapError) Error() string {
	text := fmt.Sprintf("pgnotify: notifications may be missing: %v", e.Gap.Cause)
	if e.Gap.Dropped > 0 {
		text += fmt.Sprintf(", %d were dropped", e.Gap.Dropped)
	}
	if e.Gap.Err != nil {
		text += ": " + e.Gap.Err.Error()
	}
	return text
}

// Unwrap returns what lies behind the gap.
func (e *GapError) Unwrap() error { return e.Gap.Err }
