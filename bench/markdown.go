package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// notes are what no run can write: why a goal is missed, and what shows it.
//
//go:embed notes.md
var notes string

// writeMarkdown writes the goals, what was drawn, all tables, and the notes. It
// does nothing without a file.
func writeMarkdown(file string, r *report, drawn []drawing) error {
	if file == "" {
		return nil
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# Benchmarks\n\n"+
		"Written by `go -C bench run .`; [bench/README.md](%s) says what is measured, how, and how to\n"+
		"read it. A cell has the median and, in brackets, the quartiles. The [notes](#notes) explain the\n"+
		"goals that are missed.\n\n", linkFrom(file, "README.md"))
	out.WriteString("| | |\n|---|---|\n")
	for _, f := range r.Heading {
		fmt.Fprintf(&out, "| %s | %s |\n", markdownText(f.Name), markdownText(f.Value))
	}
	if goals := markdownGoals(resultsOf(r.Outcomes)); goals != "" {
		out.WriteString("\n" + goals)
	}
	for _, d := range drawn {
		fmt.Fprintf(&out, "\n![%s](%s)\n", markdownText(d.title), linkFrom(file, d.file))
	}
	for _, o := range r.Outcomes {
		out.WriteString("\n" + o.markdown())
	}
	out.WriteString("\n" + notes)
	return os.WriteFile(file, []byte(out.String()), 0o644)
}

// linkFrom returns the way from one file to another.
func linkFrom(file, to string) string {
	from, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return filepath.ToSlash(to)
	}
	if abs, err := filepath.Abs(to); err == nil {
		if rel, err := filepath.Rel(from, abs); err == nil {
			return filepath.ToSlash(rel)
		}
	}
	return filepath.ToSlash(to)
}

// markdown is the outcome's table with its heading.
func (o outcome) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "## %s\n\n%s; %d rounds of %d %s\n\n", o.Name, markdownText(o.About), o.Rounds, o.Count, o.Unit)
	out.WriteString("| |")
	for _, name := range o.Contenders {
		out.WriteString(" " + markdownText(name) + " |")
	}
	out.WriteString("\n|---|" + strings.Repeat("---:|", len(o.Contenders)) + "\n")
	for _, l := range o.Lines {
		out.WriteString("| " + markdownText(l.Label) + " |")
		for _, c := range l.Cells {
			out.WriteString(" " + markdownText(c.String()) + " |")
		}
		out.WriteString("\n")
	}
	return out.String()
}

// markdownText has nothing in it that would mean something in a table.
var markdownText = strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", "\n", " ").Replace
