package main

import (
	"context"
	"regexp"
	"slices"
)

// A scenario is one kind of work, done by several contenders beside each other.
type scenario struct {
	name       string // for -run and the tables
	about      string // what is done, in a line
	unit       string // what a round has a number of, such as queries
	count      int    // of them in a round
	quick      int    // of them in a round of -quick
	rounds     int    // at most; 0: as many as usual
	contenders []contender
	metrics    []metric
}

// A contender is one way to do the work of a scenario.
type contender struct {
	name  string
	start func(ctx context.Context, dsn string) (*worker, error)
	slow  bool // takes no part in a quick run
}

// A worker is a contender that is connected and ready.
type worker struct {
	// work does the work count times. What only it can measure it adds to r; what
	// it costs is measured around it.
	work func(ctx context.Context, count int, r record) error

	// close ends it.
	close func() error
}

// scenarios returns all of them, in the order in which they run.
func scenarios() []scenario {
	return slices.Concat(
		queryScenarios(), rowsScenarios(), []scenario{copyScenario()}, connectScenarios(), []scenario{checkoutScenario()},
		cancelScenarios(), []scenario{idleScenario(), lossScenario()},
		receiveScenarios(), fanOutScenarios(), latencyScenarios(), reconnectScenarios(),
	)
}

// quickly returns the scenario without its slow contenders.
func (s scenario) quickly() scenario {
	s.contenders = slices.DeleteFunc(slices.Clone(s.contenders), func(c contender) bool { return c.slow })
	return s
}

// only returns the scenario with the contenders whose name matches.
func (s scenario) only(re *regexp.Regexp) scenario {
	s.contenders = slices.DeleteFunc(slices.Clone(s.contenders), func(c contender) bool { return !re.MatchString(c.name) })
	return s
}

// A record is what was measured of one contender: for each quantity its values,
// in the order measured.
type record map[string][]float64

func (r record) add(quantity string, value float64) {
	r[quantity] = append(r[quantity], value)
}

// A metric is a line of a scenario's table: one quantity, summed up.
type metric struct {
	label    string
	quantity string
	summary  func([]float64) cell

	// Where relate is set, each value is first related to the one that the
	// contender named base has from the same round; where several are named, it is
	// the one with the least median.
	base   []string
	relate func(value, base float64) float64
}

// A cell is a value of a table with its spread.
type cell struct {
	Value float64
	Low   float64 // the quartiles; the value itself where there is no spread
	High  float64
}

// An outcome is a scenario's table.
type outcome struct {
	Name       string
	About      string
	Unit       string
	Rounds     int
	Count      int
	Contenders []string
	Lines      []line
}

// A line has a cell for each contender; nil where it has no such value.
type line struct {
	Label string
	Cells []*cell
}

// sumUp makes the table of what was measured of the contenders.
func (s scenario) sumUp(e effort, records []record) outcome {
	o := outcome{Name: s.name, About: s.about, Unit: s.unit, Rounds: e.rounds, Count: e.count}
	for _, c := range s.contenders {
		o.Contenders = append(o.Contenders, c.name)
	}
	for _, m := range s.metrics {
		l := line{Label: m.label}
		base := m.baseOf(o.Contenders, records)
		for _, r := range records {
			l.Cells = append(l.Cells, m.cell(r[m.quantity], base))
		}
		o.Lines = append(o.Lines, l)
	}
	return o
}

// baseOf returns what the values of the contenders are related to, round by round.
func (m metric) baseOf(contenders []string, records []record) (base []float64) {
	for i, name := range contenders {
		if !slices.Contains(m.base, name) {
			continue
		}
		if values := records[i][m.quantity]; base == nil || quantile(values, 0.5) < quantile(base, 0.5) {
			base = values
		}
	}
	return base
}

func (m metric) cell(values, base []float64) *cell {
	if len(values) == 0 || m.relate != nil && len(base) != len(values) {
		return nil
	}
	if m.relate != nil {
		values = slices.Clone(values)
		for i := range values {
			values[i] = m.relate(values[i], base[i])
		}
	}
	c := m.summary(values)
	return &c
}
