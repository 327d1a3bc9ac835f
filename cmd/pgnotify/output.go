package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pgnotify/pgnotify"
)

// An output prints what a command reports: notifications and health to stdout, what
// happens to the session to stderr or, as JSON, to stdout too. It is safe for
// concurrent use, and blocks while nobody reads.
type output struct {
	json  bool
	brief bool               // status reports failed attempts to connect
	raw   bool               // payloads alone
	fail  func(error)        // called when stdout cannot be written to
	cols  func() (int, bool) // the width of the terminal, if stdout is one

	mu     sync.Mutex // serialises printing; guards the fields below
	out    *bufio.Writer
	err    io.Writer
	failed error // the first one of stdout
	shown  int   // how wide the line is that watch keeps up to date on a terminal
}

func newOutput(s streams, fail func(error)) *output {
	return &output{
		fail: fail,
		cols: func() (int, bool) { return terminalWidth(s.out) },
		out:  bufio.NewWriter(s.out),
		err:  s.err,
	}
}

// notification prints a notification. It may stay in the buffer until flush.
func (o *output) notification(n pgnotify.Notification) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.json:
		o.check(encode(o.out, notificationRecord{newHead("notification", now), n.Channel, n.Payload, n.PID}))
	case o.raw:
		o.writeLine(n.Payload)
	default:
		o.writeLine(notificationText(n, now))
	}
}

func notificationText(n pgnotify.Notification, t time.Time) string {
	text := fmt.Sprintf("%s %s[%d]", t.Format(timeFormat), printable(n.Channel), n.PID)
	if n.Payload != "" {
		text += ": " + printable(n.Payload)
	}
	return text
}

func (o *output) writeLine(text string) {
	_, err := o.out.WriteString(text + "\n")
	o.check(err)
}

// check makes the command end if stdout cannot be written to. The caller holds the
// lock.
func (o *output) check(err error) {
	if err != nil && o.failed == nil {
		o.failed = &outputError{err}
		o.fail(o.failed)
	}
}

// flush prints what is in the buffer.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.check(o.out.Flush())
}

// event prints at once what has happened, as record or as text.
func (o *output) event(t time.Time, record any, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.json {
		o.check(encode(o.out, record))
		o.check(o.out.Flush())
		return
	}
	o.clear()
	o.check(o.out.Flush()) // what came before
	fmt.Fprintf(o.err, "%s -- %s\n", t.Local().Format(timeFormat), lines(text))
}

func (o *output) gap(g pgnotify.Gap) {
	now := time.Now()
	o.event(now, gapRecord{newHead("gap", now), gapCauses[g.Cause], g.From.UTC(), g.To.UTC(), g.Dropped, errorText(g.Err)}, gapText(g))
}

func (o *output) session(e pgnotify.ListenerEvent) {
	if o.brief && !o.json && e.Kind == pgnotify.ListenerReconnecting && e.Err != nil {
		return
	}
	o.event(e.Time, newEventRecord(e), eventText(e))
}

// status prints record or text. On a terminal it prints instead as many of the parts as
// fit, or the text if there are none, and replaces what it printed before.
func (o *output) status(t time.Time, record any, text string, parts ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	width, terminal := o.cols()
	switch {
	case o.json:
		o.check(encode(o.out, record))
	case terminal:
		if len(parts) == 0 {
			parts = []string{oneLine(text)}
		}
		o.redraw(fit(t.Format(time.TimeOnly)+" ", parts, width), width)
	default:
		o.writeLine(t.Format(timeFormat) + " " + oneLine(text))
	}
	o.check(o.out.Flush())
}

// fit returns text with the first part, and with those after it until one does not fit.
func fit(text string, parts []string, width int) string {
	text += printable(parts[0])
	for _, part := range parts[1:] {
		longer := text + ", " + printable(part)
		if utf8.RuneCountInString(longer) >= width {
			break
		}
		text = longer
	}
	return text
}

// redraw uses only what every terminal supports. It leaves the last column empty,
// because some terminals wrap after it.
func (o *output) redraw(text string, width int) {
	if r := []rune(text); len(r) >= width {
		text = string(r[:max(width-1, 0)])
	}
	n := utf8.RuneCountInString(text)
	_, err := o.out.WriteString("\r" + text + strings.Repeat(" ", max(min(o.shown, width-1)-n, 0)))
	o.check(err)
	o.shown = n
}

// clear erases the status line, for a line that stays.
func (o *output) clear() {
	if o.shown > 0 {
		_, err := o.out.WriteString("\r" + strings.Repeat(" ", o.shown) + "\r")
		o.check(err)
		o.shown = 0
	}
}

// end leaves the last line in place, and returns the error of stdout if it could not be
// written to.
func (o *output) end() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shown > 0 {
		o.writeLine("")
		o.shown = 0
	}
	o.check(o.out.Flush())
	return o.failed
}
