package pgnotify

import (
	"database/sql/driver"
	"strings"
)

// A statement keeps the meaning it had when it was prepared: the server then looked up
// its names, read its literals and determined the types of its arguments; with a plan
// that it keeps, it has also computed what is constant. lib/pq prepares a query each
// time. A kept statement must therefore be forgotten when its query might mean something
// else now, that is,
//
//   - after a change of a setting that the server reports, even if a rollback caused the
//     change;
//   - after a query of the session that is not known to be harmless; see effects;
//   - after such a query of another session of the connector, if sessions share what it
//     may have changed.
//
// What may be rolled back may change twice, so nothing is kept until the end of its
// transaction. Changes made by other programs, or inside functions, are not seen.

// effectsOf returns the effects of a query.
func (s *session) effectsOf(query string) effects {
	if !s.config.keepsStatements() {
		return effects{}
	}
	return readEffects(query, strings.IndexByte(query, '\\') < 0 || s.readsBackslashes())
}

// readsBackslashes reports whether a backslash in a literal without a prefix is known to
// be a character like others.
func (s *session) readsBackslashes() bool {
	on, _ := s.wire.Parameter("standard_conforming_strings")
	return on == "on"
}

// heed notes that a query is about to run.
func (s *session) heed(e effects, args []driver.NamedValue) {
	if e.forgets || e.setting > 0 && !namesHarmless(args, int(e.setting)) {
		s.op.outdated = true
	}
	s.op.tells = s.op.tells || e.tells
	s.op.commits = s.op.commits || e.commits
}

// tell tells the other sessions, at the end of a request, that their statements may have
// another meaning now. What the session changes in a transaction concerns them when it is
// committed.
func (s *session) tell() {
	if s.op.tells {
		over := s.wire.Status() == 'I' || s.wire.Loss() != nil
		if over || s.op.commits {
			s.meanings.Add(1)
		}
		s.op.tells = !over
	}
	s.op.commits = false
}

// review forgets the statements that may have another meaning now. It is called between
// requests, by whoever has the turn.
func (s *session) review() {
	s.closeUnclosed()
	if s.wire.Outdated() {
		s.op.outdated = true
	}
	meanings := s.meanings.Load()
	if !s.op.outdated && meanings == s.seen {
		return
	}
	s.seen = meanings // its own changes too: they are forgotten now
	if c := s.statements; c != nil {
		for st := c.remove(""); st != nil; st = c.remove("") {
			s.wire.CloseLater(st.name)
		}
	}
	s.op.outdated = s.op.outdated && s.wire.Status() != 'I'
}
