package main

import (
	"context"
	"fmt"
	"time"
)

// droppedCount is how many notifications of a round a contender did not keep.
const droppedCount = "dropped"

// droppedLabel is the label of how many that were in all rounds.
const droppedLabel = "dropped, of all rounds"

// receiveCPULabel is the label of the costs of a notification.
const receiveCPULabel = "CPU, ns"

// Labels of how the costs compare with the better of the two that everybody uses:
// with pgx under a context that can be cancelled, as pgnotify's is, and with what
// pgx can do without one counting too.
const (
	likePeersCPU = "CPU, times the better of lib/pq's and pgx's"
	bestPeersCPU = "the same, pgx with Background counting too"
)

// A take takes at least count notifications, each with a payload of size bytes,
// and returns how many it took, with those that it learnt were dropped.
type take func(ctx context.Context, count, size int) (taken, dropped int, err error)

// A hearer hears all channels of a cry.
type hearer struct {
	take  take
	close func() error
}

// hearers are the ways to hear, each from a session of its own at the server that
// dsn names. A hearer's unit is how many notifications are taken at a time.
var hearers = []struct {
	name string
	hear func(ctx context.Context, dsn string, channels []string, unit int) (hearer, error)
}{
	{connName, hearConn},
	{listenerName, hearListener},
	{eventsName, hearEvents},
	{libpqListenerName, hearLibpq},
	{pgxConnName, hearPgx},
	{pgxBareName, hearPgxBare},
	{pgxlistenName, hearPgxlisten},
	{bunName, hearBun},
	{bareReaderName, hearBareReader},
}

// These are the peers that the goals for receiving are about, by label.
var (
	likePeers = []string{libpqListenerName, pgxConnName}
	bestPeers = append(likePeers, pgxBareName)
)

// receivePrefix is that of the channels' names.
const receivePrefix = "receive"

// receiveScenarios are notifications that come faster than they can be taken, for
// each size of the payload over one channel, and over a hundred in turn.
func receiveScenarios() (scenarios []scenario) {
	for _, channels := range []int{1, 100} {
		for _, size := range []int{0, 10, 200, 7999} {
			scenarios = append(scenarios, receiveScenario(size, channels))
		}
	}
	return scenarios
}

func receiveScenario(size, channels int) scenario {
	name, over := fmt.Sprintf("receive/%d", size), "one channel"
	if channels > 1 {
		name, over = fmt.Sprintf("%s/%d", name, channels), fmt.Sprintf("%d channels in turn", channels)
	}
	s := scenario{
		name:   name,
		about:  fmt.Sprintf("payloads of %d bytes over %s, from a scripted server, as fast as they are taken", size, over),
		unit:   "notifications",
		count:  50 * unitOf(size),
		quick:  12 * unitOf(size),
		rounds: 15,
		metrics: []metric{
			{label: receiveCPULabel, quantity: cpuMicros, summary: inNanos(medianOf)},
			{label: likePeersCPU, quantity: cpuMicros, summary: medianOf, base: likePeers, relate: ratio},
			{label: bestPeersCPU, quantity: cpuMicros, summary: medianOf, base: bestPeers, relate: ratio},
			{label: "wall time, ns", quantity: wallMicros, summary: inNanos(medianOf)},
			{label: allocationsLabel, quantity: allocs, summary: medianOf},
			{label: "bytes allocated", quantity: allocBytes, summary: medianOf},
			{label: droppedLabel, quantity: droppedCount, summary: sumOf},
		},
	}
	for _, h := range hearers {
		s.contenders = append(s.contenders, contender{name: h.name, start: func(ctx context.Context, _ string) (*worker, error) {
			c, err := startCrier(ctx)
			if err != nil {
				return nil, err
			}
			unit := unitOf(size)
			h, err := h.hear(ctx, c.dsn, channelNames(receivePrefix, channels), unit)
			if err != nil {
				return nil, joinClose(err, c.close)
			}
			cry := cry{Count: unit, Size: size, Channels: channels, Prefix: receivePrefix}
			return &worker{
				work:  func(ctx context.Context, count int, r record) error { return h.receive(ctx, c, cry, count, r) },
				close: func() error { return joinClose(h.close(), c.close) },
			}, nil
		}})
	}
	return s
}

// unitsAhead is how many units the server may be ahead of the taker, so that
// nobody has to drop any: all of them together are less than pgnotify keeps.
const unitsAhead = 4

// unitOf returns how many notifications are asked for at a time.
func unitOf(size int) int {
	const most, mostBytes = 32_000, 2_000_000
	return min(most/unitsAhead, mostBytes/max(size, 1))
}

// roundPatience is how long a round may take that has come to a standstill.
const roundPatience = time.Minute

// receive takes count notifications, of which the server sends some ahead.
func (h hearer) receive(ctx context.Context, c *crier, unit cry, count int, r record) error {
	for range min(unitsAhead, count/unit.Count) {
		if err := c.cry(unit); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer time.AfterFunc(roundPatience, stop).Stop() // no deadline, which some pay for with each call
	taken, dropped := 0, 0
	for asked := unitsAhead; taken < count; asked++ {
		n, d, err := h.take(ctx, unit.Count, unit.Size)
		if err != nil {
			return err
		}
		taken, dropped = taken+n, dropped+d
		if asked < count/unit.Count {
			if err := c.cry(unit); err != nil {
				return err
			}
		}
	}
	r.add(droppedCount, float64(dropped))
	return nil
}

// errSize is the error of a payload that is not what was sent.
func errSize(got string, want int) error {
	return fmt.Errorf("a payload of %d bytes, and not %d", len(got), want)
}
