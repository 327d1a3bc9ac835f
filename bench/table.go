package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

func printHeading(out io.Writer, heading []field) {
	for _, f := range heading {
		fmt.Fprintf(out, "%-8s %s\n", f.Name, f.Value)
	}
	fmt.Fprintln(out, "cells    median, and in brackets the quartiles")
}

func printOutcome(out io.Writer, o outcome) {
	fmt.Fprintf(out, "\n%s: %s\n%d rounds of %d %s\n\n", o.Name, o.About, o.Rounds, o.Count, o.Unit)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, name := range o.Contenders {
		fmt.Fprintf(w, "\t%s", name)
	}
	fmt.Fprintln(w)
	for _, l := range o.Lines {
		fmt.Fprint(w, l.Label)
		for _, c := range l.Cells {
			fmt.Fprintf(w, "\t%s", c)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

// String is the value, and the spread where there is one to be seen.
func (c *cell) String() string {
	if c == nil {
		return "-"
	}
	value, low, high := number(c.Value), number(c.Low), number(c.High)
	if low == value && high == value {
		return value
	}
	return fmt.Sprintf("%s [%s %s]", value, low, high)
}

// number has three digits that count, and at most two after the point.
func number(v float64) string {
	switch {
	case math.Abs(v) < 0.005:
		return "0"
	case math.Abs(v) < 9.995:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
