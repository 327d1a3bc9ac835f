package pgnotify_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A ledger is what a subscriber was told: the numbers of each channel, which its
// sender counts up, and gaps. It is safe for concurrent use.
type ledger struct {
	name     string
	channels []string
	base     []int64 // of each channel, up to where numbers may be missing at the beginning
	catchUp  bool    // its gaps are those of a CatchUp

	mu      sync.Mutex // guards the fields below
	entries []ledgerEntry
	gaps    []pgnotify.Gap
	last    []int64 // of each channel, the last number that came
	wrong   []string
	over    bool // nothing more comes
	stayed  bool // it was there when the last numbers were sent
}

// notWanted is the base of a channel that is not subscribed to.
const notWanted = 1 << 62

// A ledgerEntry is a number, or a gap where channel is negative.
type ledgerEntry struct {
	channel int32 // index
	number  int64 // or index of the gap
}

func newLedger(name string, channels []string, base []int64) *ledger {
	return &ledger{name: name, channels: channels, base: base, last: make([]int64, len(channels))}
}

// note writes down an event. L8: none of them is empty.
func (g *ledger) note(e pgnotify.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Gap != nil {
		g.noteGap(e)
		return
	}
	text, _, _ := strings.Cut(e.Payload, " ")
	n, err := strconv.ParseInt(text, 10, 64)
	i := slices.Index(g.channels, e.Channel)
	if err != nil || i < 0 || g.base[i] == notWanted || e.PID == 0 || g.catchUp && len(g.gaps) == 0 {
		g.wrong = append(g.wrong, fmt.Sprintf("event %+v", e))
		return
	}
	g.entries = append(g.entries, ledgerEntry{int32(i), n})
	g.last[i] = n
}

func (g *ledger) noteGap(e pgnotify.Event) {
	gap := *e.Gap
	known := gap.Cause >= pgnotify.GapOverflow && gap.Cause <= pgnotify.GapListenLost
	if g.catchUp && len(g.gaps) == 0 {
		known = gap.Cause == pgnotify.GapSubscribed
	}
	switch {
	case !known, e.Notification != pgnotify.Notification{}, gap.From.IsZero(), gap.To.Before(gap.From),
		gap.Cause == pgnotify.GapReconnect && gap.Err == nil, gap.Cause == pgnotify.GapOverflow && gap.Dropped == 0:
		g.wrong = append(g.wrong, fmt.Sprintf("gap %+v in %+v", gap, e.Notification))
	}
	g.entries = append(g.entries, ledgerEntry{-1, int64(len(g.gaps))})
	g.gaps = append(g.gaps, gap)
}

// end notes that nothing more comes, and whether that is because all is over.
func (g *ledger) end(stayed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over, g.stayed = true, stayed
}

// has reports whether the last numbers of all channels have come, or need not.
func (g *ledger) has(final []int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, n := range final {
		if !g.over && g.last[i] < n && g.base[i] < n {
			return false
		}
	}
	return true
}

// A tally is what ledgers hold.
type tally struct {
	seen, missing, gaps, dropped, exact int
}

func (t *tally) add(more tally) {
	t.seen += more.seen
	t.missing += more.missing
	t.gaps += more.gaps
	t.dropped += more.dropped
	t.exact += more.exact
}

// An audit compares a ledger with what was sent.
type audit struct {
	*ledger
	tally
	tracks  []*track
	gapAt   int // place of the last gap; -1 before the first
	stretch stretch
}

// A track is a channel in an audit.
type track struct {
	sent  []int64 // in order
	at    int     // in sent: where the numbers end that have come, or need not
	place int     // of that in the ledger; -1 at first
	open  bool    // there is a gap behind that which belongs to the stretch
	sure  bool    // nothing but overflow can have come between that and the stretch
}

// A stretch is a part of the ledger with gaps of overflows and nothing else, until
// a number of each channel has come behind them: what is missing there was dropped.
type stretch struct {
	missing, dropped, open int
	vague                  bool // another gap stands too near
}

// audit returns what is wrong with a ledger: numbers that come twice, out of
// order, or out of the blue, and missing ones without a gap in their place.
func (g *ledger) audit(sent [][]int64) (tally, []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &audit{ledger: g, gapAt: -1}
	for i, numbers := range sent {
		at, found := slices.BinarySearch(numbers, g.base[i])
		if !found {
			at--
		}
		a.tracks = append(a.tracks, &track{sent: numbers, at: at, place: -1})
	}
	for i, e := range g.entries {
		if e.channel < 0 {
			a.gap(i, &g.gaps[e.number])
		} else {
			a.number(i, int(e.channel), e.number)
		}
	}
	for i, t := range a.tracks {
		if g.stayed && t.at != len(t.sent)-1 {
			a.complain("%s ends with %d, and was sent up to %d", g.channels[i], g.last[i], t.sent[len(t.sent)-1])
		}
	}
	return a.tally, a.wrong
}

func (a *audit) complain(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

func (a *audit) number(i, channel int, n int64) {
	t := a.tracks[channel]
	at, found := slices.BinarySearch(t.sent, n)
	a.seen++
	switch {
	case !found:
		a.complain("%s: %d was not sent", a.channels[channel], n)
		return
	case t.place >= 0 && at <= t.at:
		a.complain("%s: %d comes after %d", a.channels[channel], n, t.sent[t.at])
		return
	}
	missing := max(0, at-t.at-1)
	if missing > 0 && a.gapAt <= t.place {
		a.complain("%s: %d numbers before %d are missing, and there is no gap", a.channels[channel], missing, n)
	}
	a.missing += missing
	t.at, t.place = at, i
	if t.open {
		t.open = false
		a.stretch.missing += missing
		if a.stretch.open--; a.stretch.open == 0 {
			a.endStretch(true)
		}
	}
	t.sure = true
}

func (a *audit) gap(i int, gap *pgnotify.Gap) {
	a.gapAt = i
	a.tally.gaps++
	a.dropped += int(gap.Dropped)
	if gap.Cause != pgnotify.GapOverflow {
		a.endStretch(false)
		for _, t := range a.tracks {
			t.open, t.sure = false, false
		}
		return
	}
	a.stretch.dropped += int(gap.Dropped)
	for i, t := range a.tracks {
		if a.base[i] == notWanted {
			continue
		}
		if !t.open {
			t.open = true
			a.stretch.open++
		}
		a.stretch.vague = a.stretch.vague || !t.sure
	}
}

// endStretch compares how many are missing in a stretch with how many were
// dropped, which must be the same where all of it has been seen.
func (a *audit) endStretch(whole bool) {
	s := a.stretch
	a.stretch = stretch{}
	switch {
	case s.vague:
	case s.missing > s.dropped, whole && s.missing < s.dropped:
		a.complain("%d numbers are missing, and %d were dropped", s.missing, s.dropped)
	case whole && s.dropped > 0:
		a.exact++
	}
}

// A ledger that is wrong is found out.
func TestLedgerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	now := time.Now()
	number := func(channel string, n int) pgnotify.Event {
		return pgnotify.Event{Notification: pgnotify.Notification{Channel: channel, Payload: fmt.Sprintf("%d xx", n), PID: 1}}
	}
	gap := func(cause pgnotify.GapCause, dropped uint64) pgnotify.Event {
		return pgnotify.Event{Gap: &pgnotify.Gap{Cause: cause, Err: pgnotify.ErrClosed, From: now, To: now, Dropped: dropped}}
	}
	overflow := func(dropped uint64) pgnotify.Event { return gap(pgnotify.GapOverflow, dropped) }
	sent := [][]int64{{1, 2, 3, 5, 6, 7, 8}, {1, 2, 3}, {1, 2, 3}}
	for name, c := range map[string]struct {
		events []pgnotify.Event
		stayed bool
		want   string // "" where nothing is wrong
	}{
		"all":             {[]pgnotify.Event{number("a", 2), number("a", 3), number("b", 1), number("a", 5)}, false, ""},
		"before its time": {[]pgnotify.Event{number("a", 1), number("a", 2)}, false, ""},
		"a hole":          {[]pgnotify.Event{number("a", 2), number("a", 5)}, false, "no gap"},
		"a hole at first": {[]pgnotify.Event{number("a", 3)}, false, "no gap"},
		"twice":           {[]pgnotify.Event{number("a", 2), number("a", 2)}, false, "after"},
		"out of order":    {[]pgnotify.Event{number("a", 3), number("a", 2)}, false, "after"},
		"not sent":        {[]pgnotify.Event{number("a", 2), number("a", 3), number("a", 4)}, false, "not sent"},
		"not subscribed":  {[]pgnotify.Event{number("c", 2)}, false, "event"},
		"empty":           {[]pgnotify.Event{{}}, false, "event"},
		"a gap":           {[]pgnotify.Event{number("a", 2), gap(pgnotify.GapReconnect, 0), number("a", 5)}, false, ""},
		"gap too early":   {[]pgnotify.Event{gap(pgnotify.GapReconnect, 0), number("a", 2), number("a", 5)}, false, "no gap"},
		"gap too late":    {[]pgnotify.Event{number("a", 2), number("a", 5), gap(pgnotify.GapReconnect, 0)}, false, "no gap"},
		"counted":         {[]pgnotify.Event{number("a", 2), number("b", 1), overflow(3), number("a", 6), number("b", 3)}, false, ""},
		"counted in two":  {[]pgnotify.Event{number("a", 2), number("b", 1), overflow(2), number("a", 6), overflow(2), number("a", 8), number("b", 3)}, false, ""},
		"one too few":     {[]pgnotify.Event{number("a", 2), number("b", 1), overflow(2), number("a", 6), number("b", 3)}, false, "dropped"},
		"one too many":    {[]pgnotify.Event{number("a", 2), number("b", 1), overflow(4), number("a", 6), number("b", 3)}, false, "dropped"},
		"cannot be told":  {[]pgnotify.Event{number("a", 2), overflow(9), number("a", 6), number("b", 3)}, false, ""},
		"not the end":     {[]pgnotify.Event{number("a", 2)}, true, "ends"},
		"not wanted":      {[]pgnotify.Event{number("d", 2)}, false, "event"},
		"gap of nothing":  {[]pgnotify.Event{overflow(0)}, false, "gap"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newLedger(name, []string{"a", "b", "d"}, []int64{1, 0, notWanted})
			g.stayed = c.stayed
			for _, e := range c.events {
				g.note(e)
			}
			_, wrong := g.audit(sent)
			if c.want == "" && len(wrong) > 0 || !strings.Contains(strings.Join(wrong, "\n"), c.want) {
				t.Errorf("found %q, want %q", wrong, c.want)
			}
		})
	}
}
