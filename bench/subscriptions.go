package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/pgnotify/pgnotify"
)

// manySubscriptions are those of a round; where each has a large channel there are
// fewer, by the memory that they take.
const manySubscriptions = 100_000

// What the subscriptions scenario records.
const (
	subscriptionHeap       = "subscription heap"  // bytes, for each
	subscriptionStack      = "subscription stack" // the same
	subscriptionGoroutines = "subscription goroutines"
)

// moreSubscriptionGoroutines is the label of how many goroutines all of them need.
const moreSubscriptionGoroutines = "goroutines more, for all subscriptions"

// subscriptionsScenario is the memory of subscriptions that wait.
func subscriptionsScenario() scenario {
	s := scenario{
		name:   "subscriptions",
		about:  "subscriptions of one Listener that wait: to one channel or to a channel each, by All or by Events with a queue size",
		unit:   "subscriptions, or as many as need that memory",
		count:  manySubscriptions,
		quick:  2000,
		rounds: 3,
		metrics: []metric{
			{label: "heap, bytes a subscription", quantity: subscriptionHeap, summary: medianOf},
			{label: "stack, bytes a subscription", quantity: subscriptionStack, summary: medianOf},
			{label: moreSubscriptionGoroutines, quantity: subscriptionGoroutines, summary: medianOf},
		},
	}
	for _, c := range []struct {
		name      string
		queue     int
		share     int // of the subscriptions of a round, one in so many
		ownTopics bool
		events    bool
	}{
		{"All", 0, 1, false, false},
		{"All, a channel each", 0, 1, true, false},
		{"Events, QueueSize 16", 16, 1, false, true},
		{"Events, default (1024)", 0, 50, false, true},
	} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, _ string) (*worker, error) {
			server, err := startCrier(ctx)
			if err != nil {
				return nil, err
			}
			return &worker{
				work: func(ctx context.Context, count int, r record) error {
					return subscribeMany(ctx, server.dsn, max(1, count/c.share), c.queue, c.ownTopics, c.events, r)
				},
				close: server.close,
			}, nil
		}})
	}
	return s
}

// subscribeMany records what subscriptions need, more than the Listener with one.
func subscribeMany(ctx context.Context, dsn string, count, queue int, ownTopics, events bool, r record) error {
	l, err := openListener(dsn)
	if err != nil {
		return err
	}
	defer l.Close()
	config := func(i int) pgnotify.SubscriptionConfig {
		if !ownTopics {
			i = 0
		}
		return pgnotify.SubscriptionConfig{Channels: []string{fmt.Sprintf("topic_%05d", i)}, QueueSize: queue}
	}
	if _, err := l.SubscribeConfig(ctx, config(0)); err != nil {
		return err
	}
	subs := make([]*pgnotify.Subscription, count)
	before := takeStock()
	if err := subscribeAll(ctx, l, subs, config); err != nil {
		return err
	}
	if events {
		for _, sub := range subs {
			sub.Events()
		}
	}
	after := takeStock()
	runtime.KeepAlive(subs)
	r.add(subscriptionHeap, (after.heap-before.heap)/float64(count))
	r.add(subscriptionStack, (after.stack-before.stack)/float64(count))
	r.add(subscriptionGoroutines, after.goroutines-before.goroutines)
	return nil
}

// subscribeAll fills subs, many at a time, so that the Listener can ask for many
// channels in one round trip.
func subscribeAll(ctx context.Context, l *pgnotify.Listener, subs []*pgnotify.Subscription, config func(i int) pgnotify.SubscriptionConfig) error {
	const abreast = 256
	var wg sync.WaitGroup
	errs := make(chan error, abreast)
	for start := range abreast {
		wg.Go(func() {
			for i := start; i < len(subs); i += abreast {
				var err error
				if subs[i], err = l.SubscribeConfig(ctx, config(i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
