// Bench measures pgnotify beside lib/pq, pgx and others, in one process and on one
// server, round by round in turn. README.md says what is measured and how to read
// it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

const usage = `Usage: go run . [flags]

Measures pgnotify, lib/pq, pgx and others beside each other and prints a table for
each scenario, and how far goals are met. All of it takes about twelve minutes.

The server is the one that PGNOTIFY_DSN names, or else the PG* variables; without
these a private one is started, and removed at the end. Nothing is created on a
server but temporary tables. Say sslmode in the DSN: the drivers' defaults differ.

`

// options are the flags.
type options struct {
	quick, list, check bool
	run, only          string
	rounds             int
	json               string
	markdown           string
	plots              string
	profile            string
	accept             bool
}

func main() {
	beChild()
	var o options
	flag.BoolVar(&o.quick, "quick", false, "few and short rounds: a minute at most, to see that it works")
	flag.BoolVar(&o.list, "list", false, "list the scenarios and measure nothing")
	flag.BoolVar(&o.check, "check", false, "exit with status 1 where a ratio misses its goal by more than a third;\n"+
		"with -quick: only scenarios that have such a goal")
	flag.StringVar(&o.run, "run", "", "only scenarios whose name matches this `regexp`")
	flag.StringVar(&o.only, "only", "", "only contenders whose name matches this `regexp`; there may be nothing left to\n"+
		"compare with then")
	flag.IntVar(&o.rounds, "rounds", 0, fmt.Sprintf("`number` of rounds (default %d, quick %d)", fullRounds, quickRounds))
	flag.StringVar(&o.json, "json", "", "also write all results to this `file`")
	flag.StringVar(&o.markdown, "markdown", "", "also write all tables to this `file`, as Markdown")
	flag.StringVar(&o.plots, "plots", "", "also draw SVG plots of what matters most into this `folder`;\nthe Markdown shows them")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile to this `file`; pick one driver with\n"+
		"go tool pprof -tagfocus contender=pgnotify (profiling costs time too)")
	flag.BoolVar(&o.accept, "accept", false, "have a goroutine wait for connections, as most services have")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 0 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	if o.list {
		for _, s := range chosen {
			fmt.Fprintf(out, "%-16s %s\n", s.name, s.about)
		}
		return nil
	}
	server, err := pgserver.Start(ctx, pgserver.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	r := &report{}
	if r.Heading, err = newHeading(ctx, server); err != nil {
		return err
	}
	printHeading(out, r.Heading)
	end, err := startProfile(o.profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if o.accept {
		end, err := startAccepting()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	started := time.Now()
	measure := func(s scenario) (outcome, error) {
		result, err := measureScenario(ctx, s, server.DSN(), o.effort(s))
		if err != nil {
			return outcome{}, fmt.Errorf("%s: %w", s.name, err)
		}
		printOutcome(out, result)
		return result, nil
	}
	for _, s := range chosen {
		result, err := measure(s)
		if err != nil {
			return err
		}
		r.Outcomes = append(r.Outcomes, result)
	}
	results := resultsOf(r.Outcomes)
	printGoals(out, results)
	fmt.Fprintf(out, "\nmeasured in %.0f s%s\n", time.Since(started).Seconds(), loadAverage())
	if err := r.write(o); err != nil || !o.check {
		return err
	}
	return check(chosen, results, func(s scenario) (outcome, error) {
		fmt.Fprintf(out, "\n-check: once more, %s\n", s.name)
		return measure(s)
	})
}

// write writes the files that were asked for.
func (r *report) write(o options) error {
	if err := writeJSON(o.json, r); err != nil {
		return err
	}
	drawn, err := drawFigures(o.plots, r)
	if err != nil {
		return err
	}
	return writeMarkdown(o.markdown, r, drawn)
}

// choose returns the scenarios and contenders that the options ask for.
func choose(o options) ([]scenario, error) {
	names, err := regexp.Compile(o.run)
	if err != nil {
		return nil, err
	}
	contenders, err := regexp.Compile(o.only)
	if err != nil {
		return nil, err
	}
	var chosen []scenario
	for _, s := range scenarios() {
		if !names.MatchString(s.name) || o.check && o.quick && !s.checked() {
			continue
		}
		if s = s.only(contenders); o.quick {
			s = s.quickly()
		}
		if len(s.contenders) > 0 {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("no scenario and contender match; -list shows the scenarios")
	}
	return chosen, nil
}

// effort says how much work there is to do for a scenario.
func (o options) effort(s scenario) effort {
	e := effort{rounds: fullRounds, count: s.count}
	if o.quick {
		e = effort{rounds: quickRounds, count: s.quick}
	}
	if s.rounds > 0 {
		e.rounds = min(e.rounds, s.rounds)
	}
	if o.rounds > 0 {
		e.rounds = o.rounds
	}
	return e
}

// startProfile does nothing without a file.
func startProfile(file string) (end func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// writeJSON does nothing without a file.
func writeJSON(file string, r *report) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
