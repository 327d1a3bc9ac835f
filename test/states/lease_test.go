package states_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgnotify/pgnotify"
)

// channels are those that sessions listen to.
var channels = []string{"a", "b", "c"}

// lease takes a session of the pool, which may listen, and makes some calls on it.
func (a *actor) lease() {
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("lease", 20*(b.limit+a.w.config.CancelTimeout))() // for all calls together
	conn, err := a.w.db.Conn(b)
	if err != nil {
		a.w.trace.add("lease: %v", err)
		return
	}
	defer conn.Close()
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		a.w.fail("FromConn: %v", err)
		return
	}
	a.w.trace.add("leased s%d", pc.PID())
	t := &taker{w: a.w, pid: pc.PID()}
	if a.dice.IntN(2) == 0 {
		a.listenTo(pc)
	}
	for range 1 + a.dice.IntN(8) {
		switch a.dice.IntN(10) {
		case 0:
			a.listenTo(pc)
		case 1:
			t.unlisten = true
			a.unlisten(pc)
		case 2:
			a.wait(pc, t)
		case 3:
			a.iterate(pc, t)
		case 4:
			a.ping(conn.PingContext)
		case 5:
			a.transact(conn)
		case 6:
			a.cancel(conn, pc)
		default:
			a.call(conn)
		}
	}
	a.w.trace.add("returned s%d", pc.PID())
}

func (a *actor) listenTo(pc *pgnotify.Conn) {
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("LISTEN", b.limit)()
	err := pc.Listen(b, channels[:1+a.dice.IntN(len(channels))]...)
	a.w.trace.add("LISTEN on s%d: %v", pc.PID(), err)
	if err != nil && a.w.quiet() && !a.ended(b) && !a.spent {
		a.w.fail("LISTEN: %v", err)
	}
}

func (a *actor) unlisten(pc *pgnotify.Conn) {
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("UNLISTEN", b.limit)()
	err := pc.Unlisten(b, channels[:a.dice.IntN(len(channels))]...)
	a.w.trace.add("UNLISTEN on s%d: %v", pc.PID(), err)
}

// wait waits for one notification for a moment.
func (a *actor) wait(pc *pgnotify.Conn, t *taker) {
	limit := between(a.dice, 0, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	defer a.w.watch("WaitForNotification", limit)()
	n, err := pc.WaitForNotification(ctx)
	a.w.trace.add("waited on s%d: %q %v", pc.PID(), n.Payload, err)
	if err == nil {
		t.take(n)
	}
}

// iterate takes notifications for a moment.
func (a *actor) iterate(pc *pgnotify.Conn, t *taker) {
	limit := []time.Duration{0, time.Millisecond, 5 * time.Millisecond}[a.dice.IntN(3)]
	defer a.w.watch("Notifications", limit)()
	options := []pgnotify.IterOption{pgnotify.Timeout(limit)}
	if a.dice.IntN(2) == 0 {
		options = append(options, pgnotify.StopAfter(1+a.dice.IntN(4)))
	}
	for n, err := range pc.Notifications(context.Background(), options...) {
		a.w.trace.add("took on s%d: %q %v", pc.PID(), n.Payload, err)
		if err != nil {
			break
		}
		if t.take(n); a.dice.IntN(4) == 0 {
			break
		}
	}
}

// cancel makes a call that is cancelled meanwhile, or not.
func (a *actor) cancel(q querier, pc *pgnotify.Conn) {
	r := newRequest(a.token(), a.dice)
	b := a.bound()
	defer b.cancel()
	defer a.w.watch("a cancelled call", b.limit)()
	var canceller sync.WaitGroup
	pause := between(a.dice, 0, 2*time.Millisecond)
	canceller.Go(func() { // ends with the cancel request, which has its own time limit; joined below
		time.Sleep(pause)
		err := pc.Cancel(b)
		a.w.trace.add("cancel of %s: %v", r.token, err)
	})
	got := a.ask(q, b, r, a.dice.IntN(8))
	canceller.Wait()
	got.mayFail = r.breaks
	a.settle(r.token, b, got)
	a.spent = a.spent || r.breaks
	if err := got.err; err != nil && errors.Is(err, context.Canceled) && b.Err() == nil {
		a.w.fail("%s says that its context was cancelled: %v", r.token, err)
	}
}
