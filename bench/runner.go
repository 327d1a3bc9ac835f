package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"slices"
)

// The rounds of a run, and of a quick one.
const (
	fullRounds  = 25
	quickRounds = 5
)

// An effort is how much work there is to do for a scenario.
type effort struct {
	rounds int
	count  int // of operations in a round
}

// measureScenario has the contenders work in turn, one round each, again and
// again, so that what disturbs the machine for a while disturbs all of them. The
// first round of each is not counted: it fills caches and grows stacks.
func measureScenario(ctx context.Context, s scenario, dsn string, e effort) (_ outcome, err error) {
	var workers []*worker
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.close())
		}
	}()
	records := make([]record, len(s.contenders))
	for i, c := range s.contenders {
		w, err := start(ctx, c, dsn)
		if err != nil {
			return outcome{}, err
		}
		workers = append(workers, w)
		if err := playRound(ctx, c.name, w, e.count, record{}); err != nil {
			return outcome{}, err
		}
		records[i] = record{}
	}
	for round := range e.rounds {
		for _, i := range order(round, len(workers)) {
			if err := playRound(ctx, s.contenders[i].name, workers[i], e.count, records[i]); err != nil {
				return outcome{}, err
			}
		}
	}
	return s.sumUp(e, records), nil
}

// start starts a contender. Its name is a label in profiles, also of the goroutines
// that it starts.
func start(ctx context.Context, c contender, dsn string) (w *worker, err error) {
	pprof.Do(ctx, pprof.Labels("contender", c.name), func(ctx context.Context) {
		w, err = c.start(ctx, dsn)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return w, nil
}

// playRound has one contender do one round. Its name is a label in profiles.
func playRound(ctx context.Context, name string, w *worker, count int, r record) (err error) {
	pprof.Do(ctx, pprof.Labels("contender", name), func(ctx context.Context) {
		err = measure(r, count, func() error { return w.work(ctx, count, r) })
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// order returns the contenders' turns in a round: each is the first as often as
// the others, and in every other cycle they go backwards, so that none always
// follows the same one.
func order(round, contenders int) []int {
	turns := make([]int, contenders)
	for i := range turns {
		turns[i] = (round + i) % contenders
	}
	if round/contenders%2 == 1 {
		slices.Reverse(turns)
	}
	return turns
}
