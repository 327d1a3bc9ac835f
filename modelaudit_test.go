package pgnotify_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A history is what a model server has sent.
type history struct {
	sent  [][]int64   // of each channel, the numbers, of one sequence
	times []time.Time // when the numbers were sent, from 1
}

// check returns what is wrong with a ledger. To the audit, which knows the numbers of
// each channel, it adds what follows from their common sequence and from the times. No
// number above latest can have come, or be counted.
func (h *history) check(g *ledger, latest int64) (tally, []string) {
	found, wrong := g.audit(h.sent)
	wrong = append(wrong, g.disorder()...)
	wrong = append(wrong, h.untimely(g)...)
	if most := h.upTo(latest, g) - found.seen; found.dropped > most {
		wrong = append(wrong, fmt.Sprintf("%d were dropped of %d that have not come", found.dropped, most))
	}
	return found, wrong
}

// disorder finds numbers, of whatever channels, that have come after later ones.
func (g *ledger) disorder() (wrong []string) {
	last := int64(0)
	for _, e := range g.entries {
		switch {
		case e.channel < 0:
			continue
		case e.number < last:
			wrong = append(wrong, fmt.Sprintf("%d comes after %d", e.number, last))
		}
		last = e.number
	}
	return wrong
}

// untimely finds missing numbers that the gaps in their place do not mean, because none
// of them reaches over the time when the number was sent.
func (h *history) untimely(g *ledger) (wrong []string) {
	for channel, sent := range h.sent {
		next, _ := slices.BinarySearch(sent, g.base[channel]+1)
		var gaps []pgnotify.Gap // behind the last number of the channel
		for _, e := range g.entries {
			if e.channel < 0 {
				gaps = append(gaps, g.gaps[e.number])
			}
			if int(e.channel) != channel {
				continue
			}
			for ; next < len(sent) && sent[next] < e.number; next++ {
				if at := h.times[sent[next]-1]; !meantBy(gaps, at) {
					wrong = append(wrong, fmt.Sprintf("%s: %d, sent at %v, is missing before %d, and not meant by %+v",
						g.channels[channel], sent[next], at.Format(clock), e.number, gaps))
				}
			}
			at, _ := slices.BinarySearch(sent, e.number) // the first may be one before the base
			next, gaps = at+1, nil
		}
	}
	return wrong
}

const clock = "15:04:05.000000"

// meantBy reports whether what was sent at that time may be missing in one of the gaps.
// What was dropped may have been sent before its gap begins: it had to travel.
func meantBy(gaps []pgnotify.Gap, at time.Time) bool {
	return slices.ContainsFunc(gaps, func(g pgnotify.Gap) bool {
		return !g.To.Before(at) && (g.Dropped > 0 || !g.From.After(at))
	})
}

// upTo returns how many numbers were sent over the channels of a ledger, up to latest.
func (h *history) upTo(latest int64, g *ledger) (n int) {
	for channel, sent := range h.sent {
		if g.base[channel] != notWanted {
			at, _ := slices.BinarySearch(sent, latest+1)
			n += at
		}
	}
	return n
}

// A ledger that is wrong is found out, here where only the sequence and the times tell.
func TestHistoryFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(second int) time.Time { return began.Add(time.Duration(second) * time.Second) }
	h := history{sent: [][]int64{{1, 3, 5}, {2, 4, 6}}}
	for n := range 6 {
		h.times = append(h.times, at(n+1))
	}
	number := func(channel string, n int) pgnotify.Event {
		return pgnotify.Event{Notification: pgnotify.Notification{Channel: channel, Payload: fmt.Sprint(n), PID: 1}}
	}
	gap := func(from, to int, dropped uint64) pgnotify.Event {
		return pgnotify.Event{Gap: &pgnotify.Gap{Cause: pgnotify.GapListenLost, From: at(from), To: at(to), Dropped: dropped}}
	}
	for name, c := range map[string]struct {
		events []pgnotify.Event
		want   string // "" where nothing is wrong
	}{
		"all":            {[]pgnotify.Event{number("a", 1), number("b", 2), number("a", 3)}, ""},
		"swapped":        {[]pgnotify.Event{number("a", 1), number("a", 3), number("b", 2)}, "2 comes after 3"},
		"in the gap":     {[]pgnotify.Event{number("a", 1), gap(2, 4, 0), number("a", 5)}, ""},
		"in the second":  {[]pgnotify.Event{number("a", 1), gap(0, 1, 0), gap(3, 3, 0), number("a", 5)}, ""},
		"sent before":    {[]pgnotify.Event{number("a", 1), gap(4, 5, 0), number("a", 5)}, "a: 3, sent"},
		"sent after":     {[]pgnotify.Event{number("a", 1), gap(1, 2, 0), number("a", 5)}, "a: 3, sent"},
		"sent, and came": {[]pgnotify.Event{number("a", 1), gap(4, 5, 1), number("a", 5)}, ""},
		"dropped after":  {[]pgnotify.Event{number("a", 1), gap(1, 2, 1), number("a", 5)}, "a: 3, sent"},
		"at first":       {[]pgnotify.Event{number("a", 5)}, "a: 1, sent"},
		"too many":       {[]pgnotify.Event{number("a", 1), gap(1, 5, 5), number("a", 5)}, "5 were dropped of 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newLedger(name, []string{"a", "b"}, []int64{0, 0})
			for _, e := range c.events {
				g.note(e)
			}
			_, wrong := h.check(g, 6)
			if c.want == "" && len(wrong) > 0 || !strings.Contains(strings.Join(wrong, "\n"), c.want) {
				t.Errorf("found %q, want %q", wrong, c.want)
			}
		})
	}
}
