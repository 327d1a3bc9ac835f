package pgnotify

import (
	"container/list"
	"database/sql/driver"
	"errors"
	"strings"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// defaultStatementCacheSize is the default of Config.StatementCacheSize.
const defaultStatementCacheSize = 256

// maxCachedQuery is the length in bytes of the longest query whose statement is kept.
// Longer queries tend to be generated, and seldom come twice.
const maxCachedQuery = 16 << 10

// maxStatementBytes bounds the memory of the statements that a session keeps, the
// descriptions of their columns included: that of 256 of the longest queries.
const maxStatementBytes = defaultStatementCacheSize * maxCachedQuery

func (c *Config) statementCacheSize() int {
	if c.StatementCacheSize == 0 {
		return defaultStatementCacheSize
	}
	return c.StatementCacheSize
}

func (c *Config) keepsStatements() bool {
	return c.statementCacheSize() > 0 && !c.BinaryParameters
}

// A statement is a prepared statement that a session keeps for a query with arguments,
// so that the query needs one round trip where lib/pq needs two.
type statement struct {
	query    string
	name     string // as the server knows it
	inner    libpqStmt
	readOnly bool // see isReadOnly
	effects  effects
	reused   bool // it was prepared for an earlier request
	bytes    int  // about how much memory it takes
}

// statements holds those of a session, most recently used first. The zero value is
// empty.
type statements struct {
	byQuery map[string]*list.Element
	recent  list.List
	bytes   int // of all
}

func (c *statements) get(query string) *statement {
	e := c.byQuery[query]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*statement)
}

func (c *statements) add(st *statement) {
	if c.byQuery == nil {
		c.byQuery = make(map[string]*list.Element)
	}
	c.byQuery[st.query] = c.recent.PushFront(st)
	c.bytes += st.bytes
}

// remove removes and returns the statement of a query, or the least recently used one
// if query is empty. It returns nil if there is none.
func (c *statements) remove(query string) *statement {
	e := c.byQuery[query]
	if query == "" {
		e = c.recent.Back()
	}
	if e == nil {
		return nil
	}
	st := c.recent.Remove(e).(*statement)
	delete(c.byQuery, st.query)
	c.bytes -= st.bytes
	return st
}

// keeps reports whether the statement of a query is kept, and what the effects of the
// query are. That of a COPY is not kept: preparing a COPY begins it. If it is not kept,
// keeps heeds the effects.
func (s *session) keeps(query string, args []driver.NamedValue) (e effects, keeps bool) {
	may := len(args) > 0 && query != "" && len(query) <= maxCachedQuery && !s.op.outdated && s.config.keepsStatements()
	if may && s.statements != nil {
		if kept := s.statements.byQuery[query]; kept != nil {
			return kept.Value.(*statement).effects, true
		}
	}
	e = s.effectsOf(query)
	if may && !e.forgets && !e.clock && !beginsCopy(query) {
		return e, true
	}
	s.heed(e, args)
	return e, false
}

// statement returns the statement of a query with its effects, prepared if need be. An
// evicted statement is closed with the next one that is prepared.
func (s *session) statement(query string, e effects) (*statement, error) {
	if s.statements == nil {
		s.statements = new(statements)
	}
	if st := s.statements.get(query); st != nil {
		st.reused = true
		return st, nil
	}
	if s.statements.recent.Len() >= s.config.statementCacheSize() {
		s.wire.CloseLater(s.statements.remove("").name)
	}
	before := s.wire.Delivered()
	inner, err := s.pq.PrepareContext(background, query)
	if err != nil {
		return nil, err
	}
	const column = 3 // lib/pq's description of one takes up to this many times what came
	st := &statement{query: query, name: s.wire.Prepared(), inner: inner.(libpqStmt),
		readOnly: isReadOnly(query), effects: e, bytes: len(query) + column*int(s.wire.Delivered()-before)}
	s.statements.add(st)
	for s.statements.bytes > maxStatementBytes && s.statements.recent.Len() > 1 {
		s.wire.CloseLater(s.statements.remove("").name)
	}
	return st, nil
}

// ready returns the statement of a query, ready to be executed with args. A context
// that ended while the statement was prepared found nothing to cancel, so ready checks
// it.
func (s *session) ready(query string, e effects, args []driver.NamedValue) (*statement, error) {
	st, err := s.statement(query, e)
	if err == nil && !st.reused {
		err = s.op.ctx.Err()
	}
	if err == nil {
		s.heed(e, args)
	}
	return st, err
}

// execKept is ExecContext with a kept statement.
func (s *session) execKept(query string, e effects, args []driver.NamedValue) (driver.Result, error) {
	for again := false; ; again = true {
		st, err := s.ready(query, e, args)
		if err != nil {
			return nil, err
		}
		res, err := st.inner.ExecContext(background, args)
		if err == nil || !s.forgetStale(st, err) || again {
			return res, s.locate(err, query)
		}
	}
}

// queryKept is QueryContext with a kept statement.
func (s *session) queryKept(query string, e effects, args []driver.NamedValue) (driver.Rows, error) {
	for again := false; ; again = true {
		st, err := s.ready(query, e, args)
		if err != nil {
			return nil, err
		}
		inner, err := st.inner.QueryContext(background, args)
		if err == nil {
			return newRows(s, inner, st.readOnly)
		}
		if !s.forgetStale(st, err) || again {
			return nil, s.locate(err, query)
		}
	}
}

// forgetStale forgets a statement that failed because the server has lost it, or
// because what it depends on has changed. It reports whether the query may be tried
// again: nothing of it was executed, and it is not in a transaction, which would have
// failed.
func (s *session) forgetStale(st *statement, err error) bool {
	var server *pq.Error
	if !errors.As(err, &server) || s.wire.Bound() {
		return false
	}
	switch {
	case server.Code == pqerror.InvalidSQLStatementName: // DEALLOCATE inside a function, or a pooler
	case server.Code == pqerror.FeatureNotSupported: // cached plan must not change result type
	case server.Code == pqerror.InternalError: // a type that was dropped and created again
	case st.reused && isTypeFault(server.Code): // a column has another type now, the argument still the old one
	default:
		return false
	}
	if s.statements.byQuery[st.query] != nil {
		s.statements.remove(st.query)
		s.wire.CloseLater(st.name)
	}
	return s.wire.Status() == 'I' && s.wire.Loss() == nil
}

// isTypeFault reports whether an error before execution may be due to the types of the
// arguments, which the server determines only once, when it prepares the statement.
func isTypeFault(code pqerror.Code) bool {
	switch code.Class() {
	case "22": // the type cannot read the argument
		return code != pqerror.DivisionByZero // which is found during planning
	case "23", // a domain does not allow it
		"42", // no such operator, column is of type …
		"54": // an array is too large
		return true
	}
	return false
}

// beginsCopy reports whether lib/pq takes a query for a COPY. It skips leading spaces
// and comments, which do not nest for lib/pq.
func beginsCopy(query string) bool {
	query = skipBlanks(query)
	return len(query) >= 4 && strings.EqualFold(query[:4], "COPY")
}

// skipBlanks skips spaces and comments as lib/pq does.
func skipBlanks(query string) string {
	for {
		query = strings.TrimLeft(query, " \t\r\n")
		switch {
		case strings.HasPrefix(query, "--"):
			_, query, _ = strings.Cut(query, "\n")
		case strings.HasPrefix(query, "/*"):
			_, query, _ = strings.Cut(query[1:], "*/") // lib/pq takes "/*/" for a whole comment
		default:
			return query
		}
	}
}
