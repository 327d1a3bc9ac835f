package pgnotify

import (
	"database/sql/driver"
	"regexp"
	"strings"
)

// A statement keeps the meaning it had when it was prepared: the server then looked up
// its names, read its literals and determined the types of its arguments. lib/pq
// prepares a query each time. A kept statement must therefore be forgotten when its
// query might mean something else now, that is, after
//
//  - a change of a setting by which literals are read: the server reports these, even if a
//    rollback caused the change;
//  - CREATE, ALTER and DROP: a name may refer to another object, a column may have another
//    type;
//  - SET, RESET and set_config of settings by which names are looked up, and the like, which
//    the server does not report.
//
// What may be rolled back may change twice, so nothing is kept until the end of its
// transaction. Changes made by other sessions, or inside functions, are not seen.

// heed notes that a query is about to run after which statements may have another
// meaning.
func (s *session) heed(query string, args []driver.NamedValue) {
	if changesMeaning(query, args) {
		s.op.outdated = true
	}
}

// review forgets the statements that may have another meaning now. It is called between
// requests, by whoever has the turn.
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

// readsClock reports whether a query may have a literal that is not constant: a date or
// time that the server evaluates when it reads the literal. If it is unclear what is a
// literal, any part may be one.
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

// present matches the words for the present time, but not the function now().
var present = regexp.MustCompile(`(?i)\b(now|today|tomorrow|yesterday)\b\s*($|[^(\s])`)

// changesMeaning reports whether a query may change the meaning of statements.
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
		statement, query, more = strings.Cut(query, ";") // wherever the semicolon stands, even in a literal
		switch {
		case isOneOf(first, "CREATE", "ALTER", "DROP", "DO"):
			return true
		case isOneOf(first, "SET", "RESET") && setsMeaning(statement, nil):
			return true
		}
	}
	return false
}

// mayChangeMeaning reports whether changesMeaning may report true for some arguments.
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

// meaningful matches the names of settings that affect the meaning of statements and
// that the server does not report. A name after a dot belongs to an extension.
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
