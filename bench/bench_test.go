package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
	"github.com/pgnotify/pgnotify/internal/rig"
)

// theServer is started by the first test that asks for it.
var theServer struct {
	once sync.Once
	*pgserver.Server
	err error
}

func TestMain(m *testing.M) {
	beChild()
	code := m.Run()
	if s := theServer.Server; s != nil {
		if err := s.Close(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	if err := rig.Lack(); err != nil {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

// dsn returns that of the tests' server: PGNOTIFY_TEST_DSN, or what
// PGNOTIFY_TEST_SERVER asks for, as for the driver's own tests.
func dsn(t *testing.T) string {
	t.Helper()
	if dsn := os.Getenv("PGNOTIFY_TEST_DSN"); dsn != "" {
		return dsn
	}
	theServer.once.Do(func() { theServer.Server, theServer.err = rig.StartServer(nil) })
	if theServer.err != nil {
		rig.WithoutServer(t, theServer.err)
	}
	return theServer.DSN()
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestScenarios plays two short rounds of each scenario. What it asserts does not
// depend on the machine's speed.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			s = s.quickly()
			got, err := measureScenario(testContext(t), s, dsn(t), effort{rounds: 2, count: s.quick})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Contenders) != len(s.contenders) || len(got.Lines) != len(s.metrics) {
				t.Fatalf("incomplete: %+v", got)
			}
			for _, l := range got.Lines {
				for i, c := range l.Cells {
					if c == nil {
						t.Errorf("%s of %s is missing", l.Label, got.Contenders[i])
					}
				}
			}
			checkPromises(t, got)
			if strings.HasPrefix(s.name, "receive/") {
				checkAllocations(t, got)
			}
		})
	}
}

// checkPromises looks for lines that are pgnotify's promises, not its speed.
func checkPromises(t *testing.T, o outcome) {
	t.Helper()
	for _, l := range o.Lines {
		of := func(contender string) float64 { return l.Cells[slices.Index(o.Contenders, contender)].Value }
		switch l.Label {
		case driversGoroutines:
			ours, theirs := of(pgnotifyName), of(libpqName)
			if ours > 0.5 {
				t.Errorf("pgnotify starts %.2f goroutines for a query", ours)
			}
			if theirs < 0.5 {
				t.Errorf("lib/pq's goroutine for a query is not counted: %.2f", theirs)
			}
		case sessionKept:
			if ours := of(pgnotifyName); ours != 100 {
				t.Errorf("pgnotify kept its session after %.0f %% of cancelled statements", ours)
			}
		case droppedLabel:
			for i, c := range l.Cells {
				if c.Value != 0 {
					t.Errorf("%s is measured without %.0f notifications that were dropped", o.Contenders[i], c.Value)
				}
			}
		case furtherAllocsLabel:
			if got := of(thousandName); got > 0.01 {
				t.Errorf("a delivery to a further subscriber allocates %.3f times", got)
			}
		case moreSubscriptionGoroutines:
			for i, c := range l.Cells {
				if c.Value > 0.5 {
					t.Errorf("%s: subscriptions need %.0f goroutines", o.Contenders[i], c.Value)
				}
			}
		case requestsLabel:
			if got := of(listenerName); got != 1 {
				t.Errorf("a Listener needs %.1f round trips to listen again", got)
			}
		case moreGoroutines:
			want := 1.0
			if runtime.GOOS == "windows" { // no means to watch
				want = 0
			}
			if watched := of(pgnotifyName); watched != want {
				t.Errorf("idle sessions need %.1f goroutines", watched)
			}
		}
	}
}

// checkAllocations wants one for a notification at the most, whatever the buffers
// have room for.
func checkAllocations(t *testing.T, o outcome) {
	t.Helper()
	cells := o.cellsOf(allocationsLabel)
	for _, name := range []string{connName, listenerName} {
		if got := cells[slices.Index(o.Contenders, name)].Value; got > 1.5 {
			t.Errorf("%s allocates %.2f times for a notification", name, got)
		}
	}
}

// TestRun runs the program as a user would.
func TestRun(t *testing.T) {
	t.Setenv("PGNOTIFY_DSN", dsn(t))
	var out strings.Builder
	folder := t.TempDir()
	file, markdown := filepath.Join(folder, "results.json"), filepath.Join(folder, "results.md")
	o := options{quick: true, run: "^query/simple$", rounds: 1, json: file, markdown: markdown, plots: filepath.Join(folder, "plots")}
	if err := run(testContext(t), o, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PostgreSQL", runtime.Version(), "1 rounds of 1500 queries", "allocations", "pgx/stdlib"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, &out)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(markdown)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Benchmarks", "| Go | " + runtime.Version(), "## Goals", "## query/simple", "## Notes", "| CPU, µs |", "](plots/query.svg)"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not in the Markdown:\n%s", want, page)
		}
	}
	if svg, err := os.ReadFile(filepath.Join(folder, "plots", "query.svg")); err != nil || !strings.Contains(string(svg), pgxName) {
		t.Errorf("%v, in %s", err, svg)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil || len(r.Outcomes) != 1 || len(r.Heading) == 0 {
		t.Errorf("%v, in %s", err, text)
	}
}

func TestChoose(t *testing.T) {
	for expression, want := range map[string]int{"": len(scenarios()), "^query/": 5, "^cancel$": 1, "^receive/": 8, "^latency/": 2, "reconnect": 2, "^connect": 3} {
		if got, err := choose(options{run: expression}); err != nil || len(got) != want {
			t.Errorf("%q: %d scenarios, %v", expression, len(got), err)
		}
	}
	got, err := choose(options{run: "^(query/simple|fanout)$", only: "^lib/pq$"})
	if err != nil || len(got) != 1 || len(got[0].contenders) != 1 || got[0].contenders[0].name != libpqName {
		t.Errorf("one contender: %d scenarios, %v", len(got), err)
	}
	all, err := choose(options{quick: true})
	few, err2 := choose(options{quick: true, check: true})
	if err != nil || err2 != nil || len(few) == 0 || len(few) >= len(all) {
		t.Errorf("%d of %d scenarios are checked: %v, %v", len(few), len(all), err, err2)
	}
	for _, expression := range []string{"(", "no such scenario"} {
		if got, err := choose(options{run: expression}); err == nil {
			t.Errorf("%q: %d scenarios", expression, len(got))
		}
		if got, err := choose(options{only: expression}); err == nil {
			t.Errorf("only %q: %d scenarios", expression, len(got))
		}
	}
}

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values  []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.95, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 4, 3, 2, 1}, 0, 1},
		{[]float64{5, 4, 3, 2, 1}, 0.25, 2},
		{[]float64{5, 4, 3, 2, 1}, 1, 5},
		{[]float64{0, 10}, 0.95, 9.5},
	} {
		if got := quantile(test.values, test.q); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", test.values, test.q, got, test.want)
		}
	}
	values := []float64{2, 1}
	if quantile(values, 0.5); values[0] != 2 {
		t.Error("quantile has sorted its argument")
	}
}

func TestSummaries(t *testing.T) {
	values := []float64{1, 0, 1, 1, 1}
	if got, want := percentOf(values), (cell{80, 80, 80}); got != want {
		t.Errorf("percentOf: %v", got)
	}
	values = []float64{5, 1, 4, 2, 3}
	if got, want := medianOf(values), (cell{3, 2, 4}); got != want {
		t.Errorf("medianOf: %v", got)
	}
	if got := p95Of(values); math.Abs(got.Value-4.8) > 1e-9 || got.Low != got.Value || got.High != got.Value {
		t.Errorf("p95Of: %v", got)
	}
	if got := p99Of(values); math.Abs(got.Value-4.96) > 1e-9 || got.Low != got.Value || got.High != got.Value {
		t.Errorf("p99Of: %v", got)
	}
	if got := ratio(1, 0); got != 0 {
		t.Errorf("ratio(1, 0) = %v", got)
	}
}

// TestSumUp relates values of the same round, not summaries of different ones.
func TestSumUp(t *testing.T) {
	s := scenario{
		contenders: []contender{{name: "a"}, {name: "b"}, {name: "c"}},
		metrics: []metric{
			{label: "plain", quantity: "x", summary: medianOf},
			{label: "ratio", quantity: "x", summary: medianOf, base: []string{"b"}, relate: ratio},
		},
	}
	o := s.sumUp(effort{}, []record{{"x": {1, 20, 3}}, {"x": {2, 10, 1}}, {}})
	want := map[string][]float64{"plain": {3, 2}, "ratio": {2, 1}}
	for _, l := range o.Lines {
		for i, v := range want[l.Label] {
			if l.Cells[i].Value != v {
				t.Errorf("%s of %s: %v, want %v", l.Label, o.Contenders[i], l.Cells[i].Value, v)
			}
		}
		if l.Cells[2] != nil {
			t.Errorf("%s of one who has no such value: %v", l.Label, l.Cells[2])
		}
	}
}

// TestBestPeer relates values to those of the better one, of the same round.
func TestBestPeer(t *testing.T) {
	s := scenario{
		contenders: []contender{{name: "a"}, {name: "b"}, {name: "c"}},
		metrics:    []metric{{label: "ratio", quantity: "x", summary: sumOf, base: []string{"b", "c"}, relate: ratio}},
	}
	o := s.sumUp(effort{}, []record{{"x": {6, 6, 6}}, {"x": {2, 3, 2}}, {"x": {1, 4, 4}}})
	for i, want := range []float64{3 + 2 + 3, 3, 0.5 + 4./3 + 2} {
		if got := o.Lines[0].Cells[i].Value; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", o.Contenders[i], got, want)
		}
	}
}

// TestFigures: what is to be drawn is there.
func TestFigures(t *testing.T) {
	r := &report{Outcomes: madeUp(1)}
	for _, f := range figures {
		groups := f.of(r)
		if len(groups) == 0 {
			t.Errorf("%s: no scenario", f.file)
		}
		for _, g := range groups {
			if len(g.bars) < 2 {
				t.Errorf("%s: %s has no %q", f.file, g.name, f.label)
			}
		}
	}
	folder := filepath.Join(t.TempDir(), "plots")
	drawn, err := drawFigures(folder, r)
	if err != nil || len(drawn) != len(figures) {
		t.Errorf("%d of %d figures are drawn: %v", len(drawn), len(figures), err)
	}
}

// madeUp returns outcomes in which each cell that is a goal's has that goal's
// value, times a factor.
func madeUp(factor float64) (outcomes []outcome) {
	for _, s := range scenarios() {
		o := outcome{Name: s.name}
		for _, c := range s.contenders {
			o.Contenders = append(o.Contenders, c.name)
		}
		for _, m := range s.metrics {
			l := line{Label: m.label}
			for _, c := range s.contenders {
				at := slices.IndexFunc(goals, func(g goal) bool {
					return g.scenario == s.name && g.label == m.label && g.contender == c.name
				})
				v := 1.
				if at >= 0 {
					v = factor * (goals[at].most + goals[at].slack)
				}
				l.Cells = append(l.Cells, &cell{v, v, v})
			}
			o.Lines = append(o.Lines, l)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// TestGoals: each has its cell, and whether it is met is told.
func TestGoals(t *testing.T) {
	for factor, want := range map[float64]string{0.9: "yes", 1: "yes", 1.2: "no"} {
		results := resultsOf(madeUp(factor))
		if len(results) != len(goals) {
			t.Fatalf("%d of %d goals have a cell", len(results), len(goals))
		}
		for _, r := range results {
			if fields := r.fields(); fields[3] != want {
				t.Errorf("%.1f times the goal: %q", factor, fields)
			}
		}
	}
	if results := resultsOf(madeUp(1)[:1]); len(results) == 0 || len(results) == len(goals) {
		t.Errorf("%d goals of one scenario", len(results))
	}
	if err := check(nil, nil, nil); err == nil {
		t.Error("-check is content with nothing")
	}
}

// TestCheck: made-up numbers fail it where they are bad each time, and where there
// is a ratio.
func TestCheck(t *testing.T) {
	good, bad, all := madeUp(1.3), madeUp(1.4), scenarios()
	of := func(outcomes []outcome) func(scenario) (outcome, error) {
		return func(s scenario) (outcome, error) {
			return outcomes[slices.IndexFunc(outcomes, func(o outcome) bool { return o.Name == s.name })], nil
		}
	}
	if err := check(all, resultsOf(good), of(bad)); err != nil {
		t.Errorf("good numbers: %v", err)
	}
	if err := check(all, resultsOf(bad), of(good)); err != nil {
		t.Errorf("bad numbers once: %v", err)
	}
	err := check(all, resultsOf(bad), of(bad))
	if err == nil {
		t.Fatal("bad numbers each time: no error")
	}
	for _, g := range goals {
		if told := strings.Contains(err.Error(), g.scenario+": "+g.what+": "); told != g.check {
			t.Errorf("%s: told %v, to be checked %v", g.what, told, g.check)
		}
	}
}

func TestLinkFrom(t *testing.T) {
	for file, want := range map[string]string{
		"../docs/benchmarks.md": "../bench/README.md",
		"results.md":            "README.md",
	} {
		if got := linkFrom(file, "README.md"); got != want {
			t.Errorf("from %s: %s, want %s", file, got, want)
		}
	}
}

// TestOrder: over enough rounds each contender has each place equally often, and
// follows each other one equally often.
func TestOrder(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4} {
		places, pairs := map[[2]int]int{}, map[[2]int]int{}
		for round := range 2 * n {
			turns := order(round, n)
			for place, c := range turns {
				places[[2]int{place, c}]++
				for _, before := range turns[:place] {
					pairs[[2]int{before, c}]++
				}
			}
		}
		if len(places) != n*n || len(pairs) != n*(n-1) {
			t.Errorf("%d contenders: places %v, pairs %v", n, places, pairs)
		}
		for at, times := range places {
			if times != 2 {
				t.Errorf("%d contenders: %d is at place %d %d times", n, at[1], at[0], times)
			}
		}
		for pair, times := range pairs {
			if times != n {
				t.Errorf("%d contenders: %d comes before %d %d times", n, pair[0], pair[1], times)
			}
		}
	}
}

// TestGoroutineCounts counts goroutines of which none is left at the end, by the
// runtime's own count where it has one, and by their numbers.
func TestGoroutineCounts(t *testing.T) {
	const started = 5000
	for name, count := range map[string]func() int64{"runtime": goroutinesCreated, "numbers": newestGoroutine} {
		before := count()
		for range started {
			done := make(chan struct{})
			go close(done)
			<-done
		}
		got := count() - before
		tolerance := int64(2*idBatch + idBatch*(runtime.GOMAXPROCS(0)+1))
		if got < started-tolerance || got > started+tolerance {
			t.Errorf("%s: %d, want about %d", name, got, started)
		}
	}
}

func TestCell(t *testing.T) {
	for want, c := range map[string]*cell{
		"-":                nil,
		"0":                {0.001, 0.002, 0.003},
		"1.00":             {1, 1, 1},
		"9.50 [9.00 10.0]": {9.5, 9, 9.999},
		"12.3 [12.0 12.9]": {12.34, 12, 12.9},
		"1234":             {1234.2, 1234, 1234.4},
		"-0.50":            {-0.5, -0.5, -0.5},
	} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
