package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lib/pq"
)

// timeFormat is a time for people, in their time zone.
const timeFormat = "2006-01-02 15:04:05.000"

// printable returns text in one line, without anything that could upset a terminal or
// deceive its reader: payloads come from anyone who may connect.
func printable(text string) string {
	if strings.IndexFunc(text, isUnsafe) < 0 {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case !isUnsafe(r):
			b.WriteRune(r)
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

func isUnsafe(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }

// lines is printable for each line of an error's text: several hosts have one each. All
// but the first are indented.
func lines(text string) string { return eachLine(text, "\n    ") }

// oneLine is lines for a text that must stay in one.
func oneLine(text string) string { return strings.ReplaceAll(eachLine(text, "; "), ":; ", ": ") }

func eachLine(text, separator string) string {
	all := strings.Split(text, "\n")
	for i := range all {
		all[i] = printable(all[i])
	}
	return strings.Join(all, separator)
}

// withoutPackage returns an error's text without the name that the program prints.
func withoutPackage(err error) string {
	return strings.ReplaceAll(strings.TrimPrefix(err.Error(), "pgnotify: "), "\npgnotify: ", "\n")
}

// errorText returns an error's text with the server's hint, and "" for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	text := withoutPackage(err)
	var server *pq.Error
	if errors.As(err, &server) && server.Hint != "" {
		text += "\nhint: " + strings.Join(strings.Fields(server.Hint), " ")
	}
	return text
}

// quoted lists channels.
func quoted(names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = strconv.Quote(name)
	}
	return strings.Join(all, ", ")
}

// short formats a duration with as many digits as people want to see.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
}

func milliseconds(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }
