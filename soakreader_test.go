package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/pgnotify/pgnotify"
)

// A tableReader reads the table where notifications may be missing, behind what it
// knows, and must know all of it in the end.
type tableReader struct {
	name string

	mu      sync.Mutex // guards known
	known   [][]int64  // of each channel
	gaps    map[pgnotify.GapCause]int
	calls   int
	unasked int // numbers that notifications brought
}

// readTable subscribes with a CatchUp that often fails.
func (r *soakRig) readTable(ctx context.Context, dice *rand.Rand, pace func(), config pgnotify.SubscriptionConfig) {
	reader := &tableReader{name: r.name + ", reading the table, " + config.Overflow.String(),
		known: make([][]int64, soakChannels), gaps: make(map[pgnotify.GapCause]int)}
	r.mu.Lock()
	r.readers = append(r.readers, reader)
	r.mu.Unlock()
	config.Channels = r.channels
	config.CatchUp = func(ctx context.Context, gap pgnotify.Gap) error { return reader.catchUp(ctx, r.soak, dice, gap) }
	sub, err := r.l.SubscribeConfig(ctx, config)
	if err != nil {
		if ctx.Err() == nil {
			r.t.Errorf("%s: %v", reader.name, err)
		}
		return
	}
	for e := range received(sub) {
		if e.Gap != nil {
			r.t.Errorf("%s: %v", reader.name, e.Gap)
		}
		var n int64
		fmt.Sscan(e.Payload, &n)
		reader.hear(slices.Index(r.channels, e.Channel), n)
		pace()
	}
}

func (t *tableReader) catchUp(ctx context.Context, s *soak, dice *rand.Rand, gap pgnotify.Gap) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls++; t.calls == 1 && gap.Cause != pgnotify.GapSubscribed {
		return fmt.Errorf("the first gap is %v", gap)
	}
	if dice.IntN(4) == 0 {
		return errors.New("on purpose")
	}
	t.gaps[gap.Cause]++
	for i := range t.known {
		var cursor int64
		if n := len(t.known[i]); n > 0 {
			cursor = t.known[i][n-1]
		}
		t.known[i] = append(t.known[i], s.sentAfter(ctx, i, cursor, func(e error) { err = e })...)
	}
	return err
}

// hear takes a notification of what the table may have told already.
func (t *tableReader) hear(channel int, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.known[channel]; len(known) == 0 || known[len(known)-1] < n {
		t.known[channel] = append(known, n)
		t.unasked++
	}
}

func (t *tableReader) has(final []int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, known := range t.known {
		if len(known) == 0 || known[len(known)-1] < final[i] {
			return false
		}
	}
	return true
}
