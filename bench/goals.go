package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A goal is what pgnotify is to reach in one cell of a scenario's table: the one
// of a line and a contender.
type goal struct {
	what      string
	scenario  string
	label     string
	contender string
	text      string // the goal, where its number alone would not be clear
	most      float64
	slack     float64 // what the measuring itself may add
	check     bool    // for -check
}

// countSlack is what the runtime adds to a count that is the same each time.
const countSlack = 0.05

// rounding is what a table does not show of a value: 1.004 is 1.00 there.
const rounding = 0.005

// goals are all of them. Those in µs, ms or ns depend on the machine: they are
// shown, and never checked. Latencies are not checked either: of the few hundred
// of a quick run, neighbours on the machine decide.
var goals = []goal{
	{what: "receive, 10 bytes, Conn: CPU, times the better of lib/pq's and pgx's, under a context", scenario: "receive/10",
		label: likePeersCPU, contender: connName, text: "1/3.3", most: 1 / 3.3, check: true},
	{what: "receive, 10 bytes, Conn: the same, pgx with Background counting too", scenario: "receive/10",
		label: bestPeersCPU, contender: connName, text: "1/3.3", most: 1 / 3.3, check: true},
	{what: "receive, 10 bytes, Conn: allocations", scenario: "receive/10",
		label: allocationsLabel, contender: connName, most: 1, slack: countSlack, check: true},
	{what: "receive, 10 bytes, Listener: CPU, times the better of lib/pq's and pgx's, under a context", scenario: "receive/10",
		label: likePeersCPU, contender: listenerName, text: "1/2.5", most: 1 / 2.5, check: true},
	{what: "receive, 10 bytes, Listener: the same, pgx with Background counting too", scenario: "receive/10",
		label: bestPeersCPU, contender: listenerName, text: "1/2.5", most: 1 / 2.5, check: true},
	{what: "receive, 10 bytes, Listener: CPU, ns", scenario: "receive/10",
		label: receiveCPULabel, contender: listenerName, most: 75},
	{what: "each further delivery at 1,000 subscribers: CPU, ns", scenario: "fanout",
		label: furtherCPULabel, contender: thousandName, most: 50},
	{what: "each further delivery at 1,000 subscribers: allocations", scenario: "fanout",
		label: furtherAllocsLabel, contender: thousandName, most: 0, slack: countSlack, check: true},

	{what: "latency, idle, Conn: median, times the best peer's", scenario: "latency/idle",
		label: latencyMedianLabel, contender: connName, most: 1},
	{what: "latency, idle, Conn: 99th percentile, the same", scenario: "latency/idle",
		label: latencyP99Label, contender: connName, most: 1},
	{what: "latency, idle, Listener: median, the same", scenario: "latency/idle",
		label: latencyMedianLabel, contender: listenerName, most: 1},
	{what: "latency, idle, Listener: 99th percentile, the same", scenario: "latency/idle",
		label: latencyP99Label, contender: listenerName, most: 1},
	{what: "latency, busy, Conn: median, the same", scenario: "latency/busy",
		label: latencyMedianLabel, contender: connName, most: 1},
	{what: "latency, busy, Conn: 99th percentile, the same", scenario: "latency/busy",
		label: latencyP99Label, contender: connName, most: 1},
	{what: "latency, busy, Listener: median, the same", scenario: "latency/busy",
		label: latencyMedianLabel, contender: listenerName, most: 1},
	{what: "latency, busy, Listener: 99th percentile, the same", scenario: "latency/busy",
		label: latencyP99Label, contender: listenerName, most: 1},
	{what: "listening to 10,000 channels again: requests", scenario: "reconnect/scripted",
		label: requestsLabel, contender: listenerName, most: 1, check: true},

	{what: "query with one argument: wall time, times lib/pq's", scenario: "query/argument",
		label: wallRatioLabel, contender: pgnotifyName, text: "1/1.7", most: 1 / 1.7, check: true},
	{what: "query with one argument: wall time, times pgx/stdlib's", scenario: "query/argument",
		label: pgxRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "query with ten arguments: wall time, times lib/pq's", scenario: "query/ten",
		label: wallRatioLabel, contender: pgnotifyName, text: "1/1.7", most: 1 / 1.7, check: true},
	{what: "query without arguments: wall time, times lib/pq's", scenario: "query/simple",
		label: wallRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "prepared query: wall time, times lib/pq's", scenario: "query/prepared",
		label: wallRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "query under a context that can be cancelled: CPU, times lib/pq's", scenario: "query/simple",
		label: cpuRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "query under a context that can be cancelled: goroutines of the driver", scenario: "query/simple",
		label: driversGoroutines, contender: pgnotifyName, most: 0, slack: countSlack, check: true},
	{what: "300,000 rows: CPU, times lib/pq's", scenario: "rows/narrow",
		label: cpuRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "300,000 rows: wall time, times lib/pq's", scenario: "rows/narrow",
		label: wallRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "rows of 20 columns: CPU, times lib/pq's", scenario: "rows/wide",
		label: cpuRatioLabel, contender: pgnotifyName, most: 1, check: true},
	{what: "rows of 1 MB: CPU, times lib/pq's", scenario: "rows/large",
		label: cpuRatioLabel, contender: pgnotifyName, most: 1, check: true},

	{what: "cancel to the next answer: median, ms", scenario: "cancel",
		label: cancelLabel, contender: pgnotifyName, most: 5},
	{what: "connect: time, times lib/pq's", scenario: "connect",
		label: wallRatioLabel, contender: pgnotifyName, most: 1.05, check: true},
	{what: "connect with TLS to a server that takes no time: the same", scenario: "connect/tls",
		label: wallRatioLabel, contender: pgnotifyName, most: 1.05},
	{what: "connect without TLS to such a server: the same", scenario: "connect/plain",
		label: wallRatioLabel, contender: pgnotifyName, most: 1.05},
	{what: "idle session: bytes more than lib/pq's, heap and stack", scenario: "idle",
		label: moreThanLibpq, contender: pgnotifyName, most: 1024, check: true},
}

// A result is a goal and what was measured for it.
type result struct {
	goal
	measured *cell
}

// resultsOf returns those of the goals whose cell was measured.
func resultsOf(outcomes []outcome) (results []result) {
	for _, g := range goals {
		for _, o := range outcomes {
			at := slices.Index(o.Contenders, g.contender)
			if o.Name != g.scenario || at < 0 {
				continue
			}
			if cells := o.cellsOf(g.label); cells != nil && cells[at] != nil {
				results = append(results, result{g, cells[at]})
			}
		}
	}
	return results
}

// fields are the goal, what was measured, and whether that is enough.
func (r result) fields() []string {
	text := r.text
	if text == "" {
		text = number(r.most)
	}
	met := "no"
	if r.measured.Value <= r.most+r.slack+rounding {
		met = "yes"
	}
	return []string{r.what, "at most " + text, r.measured.String(), met}
}

var goalsHeading = []string{"goal", "", "measured", "met"}

func printGoals(out io.Writer, results []result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprint(out, "\ngoals: what pgnotify is to reach\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(goalsHeading, "\t"))
	for _, r := range results {
		fmt.Fprintln(w, strings.Join(r.fields(), "\t"))
	}
	w.Flush()
}

// markdownGoals is the same table with its heading.
func markdownGoals(results []result) string {
	if len(results) == 0 {
		return ""
	}
	var out strings.Builder
	out.WriteString("## Goals\n\n| " + strings.Join(goalsHeading, " | ") + " |\n|---|---|---:|---|\n")
	for _, r := range results {
		out.WriteString("|")
		for _, text := range r.fields() {
			out.WriteString(" " + markdownText(text) + " |")
		}
		out.WriteString("\n")
	}
	return out.String()
}
