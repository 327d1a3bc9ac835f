package pgnotify

import (
	"database/sql/driver"
	"regexp"
	"strings"
)

// A statement means what it meant when it was prepared: then the server looked up its
// names, read its literals and found out the types of its arguments. lib/pq prepares a
// query each time, so a statement that is kept must be forgotten where its query might
// mean something else now. That is so behind
//
//   - a change of a setting by which literals are read: the server reports those, also
//     where it was a rollback that changed them;
//   - CREATE, ALTER and DROP: a name may be another's, a column have another type;
//   - SET, RESET and set_config of what names are looked up by, and the like, which the
//     server does not report.
//
// What may be rolled back may change twice: to the end of its transaction nothing is
// kept. What other sessions change is not seen, nor what functions do.

// heed notes that a query is about to be run, behind which statements may mean something
// else.
func (s *session) heed(query string, args []driver.NamedValue) {
	if changesMeaning(query, args) {
		s.op.outdated = true
	}
}

// review forgets the statements that may mean something else now. It is called between
// requests, by who has the turn.
func (s *session) review() {
	s.closeUnclosed()
	if s.wire.Outdated() {
		s.op.outdated = true
	}
	if !s.op.outdated {
		return
	}
	if c := s.statements; c != nil {
		for st := c.remove(""); st != nil; st = c.remove("") {
			s.wire.CloseLater(st.name)
		}
	}
	s.op.outdated = s.wire.Status() != 'I'
}

// readsClock reports whether a query may have a literal that is not constant: one of a
// date or a time that the server reads as of when it reads it. Where it is not clear what
// is a literal, all may be.
func readsClock(query string) bool {
	if !present.MatchString(query) {
		return false
	}
	unclear := strings.Contains(query, "--") || strings.Contains(query, "/*") ||
		strings.Contains(query, `\'`) || strings.Contains(query, "$$")
	literal := false
	for part := range strings.SplitSeq(query, "'") {
		if (literal || unclear) && present.MatchString(part) {
			return true
		}
		literal = !literal
	}
	return false
}

// present finds the words for the present time, but for the function.
var present = regexp.MustCompile(`(?i)\b(now|today|tomorrow|yesterday)\b\s*($|[^(\s])`)

// changesMeaning reports whether a query may change what statements mean.
func changesMeaning(query string, args []driver.NamedValue) bool {
	if mentionsSetConfig(query) && setsMeaning(query, args) {
		return true
	}
	for more := true; more; {
		query = skipBlanks(query)
		first := query
		if end := strings.IndexFunc(query, isNoLetter); end >= 0 {
			first = query[:end]
		}
		var statement string
		statement, query, more = strings.Cut(query, ";") // wherever that stands
		switch {
		case isOneOf(first, "CREATE", "ALTER", "DROP", "DO"):
			return true
		case isOneOf(first, "SET", "RESET") && setsMeaning(statement, nil):
			return true
		}
	}
	return false
}

// mayChangeMeaning reports whether changesMeaning may report true, with some arguments.
func mayChangeMeaning(query string) bool {
	return mentionsSetConfig(query) || changesMeaning(query, nil)
}

func isNoLetter(r rune) bool { return (r|0x20) < 'a' || (r|0x20) > 'z' }

func isOneOf(word string, words ...string) bool {
	for _, w := range words {
		if strings.EqualFold(word, w) {
			return true
		}
	}
	return false
}

func mentionsSetConfig(query string) bool {
	return strings.Contains(query, "set_config") || strings.Contains(query, "SET_CONFIG")
}

// meaningful finds the names of settings that statements mean something by, and that the
// server does not report. What has a dot before it is an extension's.
var meaningful = regexp.MustCompile(`(?i)(^|[^.\w])(search_path|schema|role|authorization|session_authorization|` +
	`array_nulls|transform_null_equals|xml|xmloption|backslash_quote|lc_monetary|timezone_abbreviations|reset\s+all)\b`)

// setsMeaning reports whether one of those settings is mentioned.
func setsMeaning(query string, args []driver.NamedValue) bool {
	if meaningful.MatchString(query) {
		return true
	}
	for _, a := range args {
		if text, ok := a.Value.(string); ok && meaningful.MatchString(text) {
			return true
		}
	}
	return false
}
