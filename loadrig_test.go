package pgnotify_test

import (
	"context"
	"database/sql/driver"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A loadRig is an impatient Listener with a subscriber who keeps a ledger, and a sender
// who is sending all the time.
type loadRig struct {
	*sender
	valve  *valve // that it is behind; nil: none
	l      *pgnotify.Listener
	events *recorder
	pid    uint32
	sub    *pgnotify.Subscription
	book   *ledger
	stop   func() // ends sending, and waits for that
	noted  <-chan error
}

// newLoadRig sends over a DSN, and listens over a connector.
func newLoadRig(t *testing.T, dsn string, c driver.Connector, options ...func(*pgnotify.ListenerConfig)) *loadRig {
	t.Helper()
	r := &loadRig{sender: newSender(t, dsn, 2)}
	r.l, r.events = listenBy(t, c, append([]func(*pgnotify.ListenerConfig){impatient}, options...)...)
	r.sub = subscribeWith(t, r.l, pgnotify.SubscriptionConfig{Channels: r.channels, QueueSize: 1 << 16})
	r.book = r.ledger(t.Name(), r.channels...)
	r.noted = async(t, func() error {
		for e := range r.sub.Events() {
			r.book.note(e)
		}
		return r.sub.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() { // ends with stop
		for ctx.Err() == nil {
			for i := range r.channels {
				if r.sendNumbers(i, 1+rand.IntN(20), "") != nil {
					rest(ctx, 5*time.Millisecond)
				}
			}
		}
	})
	r.stop = func() {
		cancel()
		sending.Wait()
	}
	t.Cleanup(func() {
		r.stop()
		r.l.Close()
	})
	return r
}

// untilMore waits until the subscriber has heard more.
func (r *loadRig) untilMore(t *testing.T) {
	t.Helper()
	next := make([]int64, len(r.channels))
	for i := range next {
		next[i] = r.begun[i].Load() + 100
	}
	until(t, "more numbers come", func() bool { return r.book.has(next) })
}

// audit ends the load, and checks that what is missing lies in gaps, of which there is one.
func (r *loadRig) audit(t *testing.T) (found tally) {
	t.Helper()
	r.stop()
	sent := r.sent(t)
	until(t, "the last numbers have come", func() bool {
		return r.book.has([]int64{sent[0][len(sent[0])-1], sent[1][len(sent[1])-1]})
	})
	r.l.Close()
	r.book.end(recv(t, r.noted) == pgnotify.ErrClosed)
	found, wrong := r.book.audit(sent)
	t.Logf("%+v", found)
	for _, w := range wrong {
		t.Error(w)
	}
	if found.gaps == 0 {
		t.Error("no gap")
	}
	return found
}
