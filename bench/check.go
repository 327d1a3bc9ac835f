package main

import (
	"errors"
	"fmt"
	"slices"
)

// checkFactor is how many times the goal a run for -check must not exceed: that
// much is between a machine at rest and one that is not.
const checkFactor = 4. / 3

// checkTries is how often a goal has to be missed for -check to fail. Where the
// kernel puts a server's process, and for how long, makes short runs err by half;
// each try has new sessions.
const checkTries = 3

// checked reports whether -check looks at the scenario.
func (s scenario) checked() bool {
	return slices.ContainsFunc(goals, func(g goal) bool { return g.check && g.scenario == s.name })
}

// off reports whether the value is that far from the goal that -check fails.
func (r result) off() bool {
	return r.check && r.measured.Value > checkFactor*(r.most+r.slack)
}

// check returns an error that names the goals that are missed by far, each time
// that they are measured.
func check(scenarios []scenario, results []result, measure func(scenario) (outcome, error)) error {
	if !slices.ContainsFunc(results, func(r result) bool { return r.check }) {
		return errors.New("-check: nothing was measured that there is a goal for")
	}
	missed := missedOf(results)
	for range checkTries - 1 {
		var again []outcome
		for _, s := range scenarios {
			if !missed.in(s) {
				continue
			}
			o, err := measure(s)
			if err != nil {
				return err
			}
			again = append(again, o)
		}
		missed = missedOf(resultsOf(again)).and(missed)
	}
	return missed.err()
}

// misses are goals that are missed by far.
type misses []result

func missedOf(results []result) misses {
	return slices.DeleteFunc(slices.Clone(results), func(r result) bool { return !r.off() })
}

func (m misses) in(s scenario) bool {
	return slices.ContainsFunc(m, func(r result) bool { return r.scenario == s.name })
}

// and returns those that are among the others, too.
func (m misses) and(others misses) misses {
	return slices.DeleteFunc(m, func(r result) bool {
		return !slices.ContainsFunc(others, func(o result) bool { return o.goal == r.goal })
	})
}

func (m misses) err() error {
	if len(m) == 0 {
		return nil
	}
	var errs []error
	for _, r := range m {
		errs = append(errs, fmt.Errorf("%s: %s: %s; the goal is %s", r.scenario, r.what, r.measured, r.fields()[1]))
	}
	return fmt.Errorf("-check: missed by more than a third, each time:\n%w", errors.Join(errs...))
}
