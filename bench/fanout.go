package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pgnotify/pgnotify"
)

// What a fan-out scenario records of each round.
const (
	oneMicros     = "one"            // processor time of a notification with one subscriber
	furtherMicros = "further"        // of a delivery to each further one
	furtherAllocs = "further allocs" // objects on the heap, for the same
	furtherBytes  = "further bytes"
)

// Labels of what each further subscriber costs.
const (
	furtherCPULabel    = "CPU of each further delivery, ns"
	furtherAllocsLabel = "allocations of the same"
)

// fanOutSize is how many bytes of payload there are.
const fanOutSize = 10

// thousandName is the contender that the goal for a further delivery is about.
const thousandName = "1,000"

// bareChannelsName is the contender that shows what Go itself needs.
const bareChannelsName = "1,000 bare channels"

// fanOutScenarios are bursts that are delivered to many subscribers of a Listener,
// who take them when they are there; and the same with a goroutine that waits for
// each subscriber. The bare channels are what Go needs for that: a value of the
// same size is sent to and taken from each of as many channels.
func fanOutScenarios() []scenario {
	s := scenario{
		name:   "fanout",
		about:  "bursts for many subscribers of one Listener, each with a queue that is large enough",
		unit:   "deliveries at least",
		count:  2_000_000,
		quick:  100_000,
		rounds: 9,
		metrics: []metric{
			{label: furtherCPULabel, quantity: furtherMicros, summary: inNanos(medianOf)},
			{label: furtherAllocsLabel, quantity: furtherAllocs, summary: medianOf},
			{label: "bytes allocated of the same", quantity: furtherBytes, summary: medianOf},
			{label: "CPU of a notification to one, ns", quantity: oneMicros, summary: inNanos(medianOf)},
		},
	}
	for _, c := range []struct {
		name        string
		subscribers int
		burst       int // for all queues together to fit into the memory
		open        func(ctx context.Context, subscribers, burst int) (*fan, error)
		slow        bool
	}{
		{"10", 10, 500, openFan(takeFromAll, false), false},
		{thousandName, 1000, 500, openFan(takeFromAll, false), false},
		{"1,000 by Events", 1000, 500, openFan(takeFromEvents, false), false},
		{"10,000", 10_000, 100, openFan(takeFromAll, false), false},
		{"100,000", 100_000, 16, openFan(takeFromAll, false), true},
		{"1,000 waiting", 1000, 500, openFan(takeFromAll, true), false},
		{bareChannelsName, 1000, 500, openBare, false},
	} {
		s.contenders = append(s.contenders, contender{name: c.name, slow: c.slow, start: func(ctx context.Context, _ string) (*worker, error) {
			f, err := c.open(ctx, c.subscribers, c.burst)
			if err != nil {
				return nil, err
			}
			return &worker{
				work: func(_ context.Context, count int, r record) error {
					return f.compare(max(1, count/(c.subscribers*c.burst)), c.burst, r)
				},
				close: f.close,
			}, nil
		}})
	}
	return []scenario{s, subscriptionsScenario()}
}

// A fan delivers bursts to many, and to one.
type fan struct {
	many, one   func(bursts int) error
	subscribers int
	close       func() error
}

// compare records what bursts cost with many and with one.
func (f *fan) compare(bursts, burst int, r record) error {
	all, single := record{}, record{}
	if err := measure(all, bursts*burst, func() error { return f.many(bursts) }); err != nil {
		return err
	}
	if err := measure(single, bursts*burst, func() error { return f.one(bursts) }); err != nil {
		return err
	}
	further := func(quantity string) float64 {
		return (all[quantity][0] - single[quantity][0]) / float64(f.subscribers-1)
	}
	r.add(furtherMicros, further(cpuMicros))
	r.add(furtherAllocs, further(allocs))
	r.add(furtherBytes, further(allocBytes))
	r.add(oneMicros, single[cpuMicros][0])
	return nil
}

// The prefixes of the channels with many subscribers and with one.
const (
	manyPrefix = "many"
	onePrefix  = "one"
)

// A burstTaker takes a burst out of a subscription.
type burstTaker func(sub *pgnotify.Subscription, burst int) error

// openFan returns a Listener's.
func openFan(take burstTaker, waiting bool) func(ctx context.Context, subscribers, burst int) (*fan, error) {
	return func(ctx context.Context, subscribers, burst int) (_ *fan, err error) {
		c, err := startCrier(ctx)
		if err != nil {
			return nil, err
		}
		l, err := openListener(c.dsn)
		if err != nil {
			return nil, joinClose(err, c.close)
		}
		f := &fan{subscribers: subscribers, close: func() error { return joinClose(l.Close(), c.close) }}
		if f.many, err = startFan(ctx, c, l, manyPrefix, subscribers, burst, take, waiting); err == nil {
			f.one, err = startFan(ctx, c, l, onePrefix, 1, burst, take, waiting)
		}
		if err != nil {
			return nil, joinClose(err, f.close)
		}
		return f, nil
	}
}

// startFan subscribes, and returns what has bursts delivered to all subscribers,
// one after the other: the next begins when all have taken the last.
func startFan(ctx context.Context, c *crier, l *pgnotify.Listener, prefix string, subscribers, burst int, take burstTaker, waiting bool) (func(bursts int) error, error) {
	subs := make([]*pgnotify.Subscription, subscribers)
	config := pgnotify.SubscriptionConfig{Channels: channelNames(prefix, 1), QueueSize: burst + 1}
	for i := range subs {
		var err error
		if subs[i], err = l.SubscribeConfig(ctx, config); err != nil {
			return nil, err
		}
	}
	takeAll := func() error {
		for _, sub := range subs {
			if err := take(sub, burst); err != nil {
				return err
			}
		}
		return nil
	}
	if waiting {
		takeAll = waitForAll(subs, burst, take)
	}
	unit := cry{Count: burst, Size: fanOutSize, Channels: 1, Prefix: prefix}
	return func(bursts int) error {
		for range bursts {
			if err := c.cry(unit); err != nil {
				return err
			}
			if err := takeAll(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func takeFromAll(sub *pgnotify.Subscription, burst int) error {
	for _, err := range sub.All(context.Background()) {
		if err != nil { // a gap, too
			return err
		}
		if burst--; burst == 0 {
			break
		}
	}
	return nil
}

func takeFromEvents(sub *pgnotify.Subscription, burst int) error {
	for range burst {
		e, ok := <-sub.Events()
		if !ok {
			return errEnded
		}
		if e.Gap != nil {
			return errors.New(e.Gap.String())
		}
	}
	return nil
}

// waitForAll starts a goroutine for each subscriber, and returns what waits until
// each has taken a burst.
func waitForAll(subs []*pgnotify.Subscription, burst int, take burstTaker) func() error {
	var taken sync.WaitGroup
	taken.Add(len(subs))
	failed := make(chan error, len(subs))
	for _, sub := range subs {
		go func() { // ends with the subscription
			for {
				if err := take(sub, burst); err != nil {
					failed <- err
					taken.Done()
					return
				}
				taken.Done()
			}
		}()
	}
	return func() error {
		taken.Wait()
		taken.Add(len(subs))
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}
}

// openBare returns that of channels without a Listener: a goroutine sends, in a
// Listener's order, and another one takes.
func openBare(_ context.Context, subscribers, burst int) (*fan, error) {
	queues := make([]chan pgnotify.Event, subscribers)
	for i := range queues {
		queues[i] = make(chan pgnotify.Event, burst+1)
	}
	bursts, done := make(chan []chan pgnotify.Event), make(chan struct{})
	go func() { // ended by close
		defer close(done)
		n := pgnotify.Notification{Channel: manyPrefix, Payload: payload(fanOutSize)}
		for queues := range bursts {
			for range burst {
				for _, q := range queues {
					q <- pgnotify.Event{Notification: n}
				}
			}
		}
	}()
	deliver := func(queues []chan pgnotify.Event) func(int) error {
		return func(count int) error {
			for range count {
				bursts <- queues
				for _, q := range queues {
					for range burst {
						if e := <-q; len(e.Payload) != fanOutSize {
							return fmt.Errorf("taken: %v", e)
						}
					}
				}
			}
			return nil
		}
	}
	return &fan{
		many:        deliver(queues),
		one:         deliver(queues[:1]),
		subscribers: subscribers,
		close: func() error {
			close(bursts)
			<-done
			return nil
		},
	}, nil
}
