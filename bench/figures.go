package main

import (
	"regexp"
	"slices"
)

// A figure is a bar plot of one line of the tables of some scenarios: a group of
// bars for each scenario, a bar for each contender.
type figure struct {
	file      string // without its extension
	title     string
	axis      string // what the bars' length means
	scenarios *regexp.Regexp
	label     string   // of the line
	without   []string // contenders that are not shown
	mark      float64  // where a line across all bars stands; 0: nowhere
}

// figures are those of what matters most.
var figures = []figure{
	{
		file:      "receive",
		title:     "Processor time of a notification: receive/BYTES/CHANNELS",
		axis:      "times the better of lib/pq's and pgx's; less is better",
		scenarios: regexp.MustCompile(`^receive/(\d+|10/100)$`),
		label:     bestPeersCPU,
		mark:      1,
	},
	{
		file:      "fanout",
		title:     "Processor time of a delivery to each further subscriber",
		axis:      "nanoseconds; less is better",
		scenarios: regexp.MustCompile(`^fanout$`),
		label:     furtherCPULabel,
	},
	{
		file:      "latency",
		title:     "Latency from NOTIFY to the program, median",
		axis:      "times the better of lib/pq's and pgx's; less is better",
		scenarios: regexp.MustCompile(`^latency/`),
		label:     latencyMedianLabel,
		mark:      1,
	},
	{
		file:      "latency-p99",
		title:     "Latency from NOTIFY to the program, 99th percentile",
		axis:      "times the better of lib/pq's and pgx's; less is better",
		scenarios: regexp.MustCompile(`^latency/`),
		label:     latencyP99Label,
		mark:      1,
	},
	{
		file:      "reconnect",
		title:     "From the loss of a session to listening to all channels again",
		axis:      "times lib/pq's; less is better",
		scenarios: regexp.MustCompile(`^reconnect`),
		label:     reconnectRatioLabel,
		mark:      1,
	},
	{
		file:      "query",
		title:     "Processor time of a query through database/sql",
		axis:      "times lib/pq's; less is better",
		scenarios: regexp.MustCompile(`^query/(simple|argument|ten|prepared)$`),
		label:     cpuRatioLabel,
		without:   []string{noneName, bareSocketName},
		mark:      1,
	},
	{
		file:      "rows",
		title:     "Processor time of rows read and copied, and of connecting",
		axis:      "times lib/pq's; less is better",
		scenarios: regexp.MustCompile(`^(rows/|copy$|connect)`),
		label:     cpuRatioLabel,
		without:   []string{bareSocketName},
		mark:      1,
	},
}

// A group is a scenario's bars.
type group struct {
	name string
	bars []bar
}

type bar struct {
	contender string
	value     float64
}

// of returns the figure's groups.
func (f figure) of(r *report) (groups []group) {
	for _, o := range r.Outcomes {
		if !f.scenarios.MatchString(o.Name) {
			continue
		}
		g := group{name: o.Name}
		for i, c := range o.cellsOf(f.label) {
			if c != nil && !slices.Contains(f.without, o.Contenders[i]) {
				g.bars = append(g.bars, bar{o.Contenders[i], c.Value})
			}
		}
		groups = append(groups, g)
	}
	return groups
}

// cellsOf returns a line of the table by its label.
func (o outcome) cellsOf(label string) []*cell {
	for _, l := range o.Lines {
		if l.Label == label {
			return l.Cells
		}
	}
	return nil
}
