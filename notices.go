package pgnotify

import (
	"log/slog"
	"strings"

	"github.com/lib/pq/pqerror"
)

// A Notice is a message that the server sends alongside the result of a statement:
// RAISE NOTICE, warnings, hints about what a command skipped. It may be kept after the
// handler has returned. Its fields are those of [the protocol], under the names that
// pq.Error uses; an empty field was not sent.
//
// [the protocol]: https://www.postgresql.org/docs/current/protocol-error-fields.html
type Notice struct {
	Severity             string       // as shown to people: localised if lc_messages is not English
	SeverityNonLocalized string       // DEBUG, LOG, INFO, NOTICE or WARNING; empty before PostgreSQL 9.6
	Code                 pqerror.Code // SQLSTATE
	Message              string
	Detail               string
	Hint                 string
	Position             string // in characters, from 1, in the statement
	InternalPosition     string // the same in InternalQuery
	InternalQuery        string // the statement, inside a function, that the notice is about
	Where                string // the call stack of functions, innermost first
	Schema               string
	Table                string
	Column               string
	DataTypeName         string
	Constraint           string
	File                 string // of the server's source
	Line                 string
	Routine              string
}

// memory returns about how much memory the notice takes.
func (n *Notice) memory() int {
	const fields = 18
	return 32*fields + // the strings' own sizes, and what the memory of each takes besides it
		len(n.Severity) + len(n.SeverityNonLocalized) + len(n.Code) + len(n.Message) + len(n.Detail) +
		len(n.Hint) + len(n.Position) + len(n.InternalPosition) + len(n.InternalQuery) + len(n.Where) +
		len(n.Schema) + len(n.Table) + len(n.Column) + len(n.DataTypeName) + len(n.Constraint) +
		len(n.File) + len(n.Line) + len(n.Routine)
}

// String formats the notice as psql does.
func (n *Notice) String() string {
	var b strings.Builder
	b.WriteString(n.Severity + ":  " + n.Message)
	for _, part := range []struct{ name, text string }{
		{"DETAIL", n.Detail}, {"HINT", n.Hint}, {"QUERY", n.InternalQuery},
	} {
		if part.text != "" {
			b.WriteString("\n" + part.name + ":  " + part.text)
		}
	}
	return b.String()
}

// Level maps the severity to a level of [slog]: DEBUG to debug, WARNING to warn, ERROR,
// FATAL and PANIC to error, and all others, such as LOG, INFO and NOTICE, to info. It
// uses the localised severity only if the server sends no other.
func (n *Notice) Level() slog.Level {
	severity := n.SeverityNonLocalized
	if severity == "" {
		severity = n.Severity
	}
	switch severity {
	case "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3", "DEBUG4", "DEBUG5":
		return slog.LevelDebug
	case "WARNING":
		return slog.LevelWarn
	case "ERROR", "FATAL", "PANIC":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// LogValue implements [slog.LogValuer]: a group of the main fields, as far as they were
// sent.
func (n *Notice) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 8)
	for _, f := range []struct{ key, value string }{
		{"severity", n.Severity}, {"code", string(n.Code)}, {"message", n.Message},
		{"detail", n.Detail}, {"hint", n.Hint}, {"where", n.Where},
		{"schema", n.Schema}, {"table", n.Table}, {"column", n.Column},
		{"datatype", n.DataTypeName}, {"constraint", n.Constraint},
	} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.key, f.value))
		}
	}
	return slog.GroupValue(attrs...)
}

// NoticeConn is a session that receives notices. Every session of pgnotify is one:
//
//	err := conn.Raw(func(dc any) error {
//		remove = dc.(pgnotify.NoticeConn).AddNoticeHandler(print)
//		return nil
//	})
type NoticeConn interface {
	// AddNoticeHandler registers f to be called with each notice of the session, until
	// remove is called or the session is returned to the pool. On a handle that was
	// released it does nothing.
	//
	// Handlers run one after the other, in the order they were added, on a goroutine of
	// the session. When a statement returns, its notices have been handled. A panic in
	// a handler is logged and does not affect the others. While a handler blocks, later
	// notices wait; after a second the statement returns without it, and once 4 MiB
	// wait, further notices are dropped, which is logged. A request on the same session
	// from within a handler works once the statement has returned, or fails with
	// [ErrBusy].
	//
	// remove may be called more than once, and from within f. A call of f that has
	// begun is not interrupted.
	AddNoticeHandler(f func(*Notice)) (remove func())
}

// AddNoticeHandler implements [NoticeConn].
func (c *Conn) AddNoticeHandler(f func(*Notice)) (remove func()) {
	return addHandler(c, func(h *hearing) *handlers[func(*Notice)] { return &h.notices }, f)
}
