package pgnotify

import (
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/lib/pq"
)

// sessionAttrs returns what to require of a session, one item for each pass over the
// hosts.
func sessionAttrs(attrs pq.TargetSessionAttrs) ([]pq.TargetSessionAttrs, error) {
	switch attrs {
	case pq.TargetSessionAttrsPreferStandby:
		return []pq.TargetSessionAttrs{pq.TargetSessionAttrsStandby, pq.TargetSessionAttrsAny}, nil
	case "", pq.TargetSessionAttrsAny, pq.TargetSessionAttrsReadWrite, pq.TargetSessionAttrsReadOnly,
		pq.TargetSessionAttrsPrimary, pq.TargetSessionAttrsStandby:
		return []pq.TargetSessionAttrs{attrs}, nil
	}
	return nil, fmt.Errorf("pgnotify: unknown target_session_attrs %q: use any, read-write, read-only, "+
		"primary, standby or prefer-standby", string(attrs))
}

// A kindError says why a server that would accept the session was not used, or that its
// kind could not be determined. Another server may do.
type kindError struct{ err error }

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

func isKindError(err error) bool {
	var kind *kindError
	return errors.As(err, &kind)
}

// checkAttrs returns a *kindError unless the session is of the required kind, as libpq
// defines it. lib/pq's own check accepts no standby for read-only.
func (s *session) checkAttrs(want pq.TargetSessionAttrs) error {
	var (
		is      bool
		err     error
		yes, no string
	)
	switch want {
	case pq.TargetSessionAttrsReadWrite, pq.TargetSessionAttrsReadOnly:
		is, err = s.isReadOnly()
		yes, no = "the session is read-only", "the session is not read-only"
	case pq.TargetSessionAttrsPrimary, pq.TargetSessionAttrsStandby:
		is, err = s.isStandby()
		yes, no = "the server is a standby", "the server is not a standby"
	default:
		return nil
	}
	wanted := want == pq.TargetSessionAttrsReadOnly || want == pq.TargetSessionAttrsStandby
	switch {
	case err != nil:
		return &kindError{err}
	case is == wanted:
		return nil
	case is:
		return &kindError{fmt.Errorf("%s, but target_session_attrs=%s", yes, want)}
	}
	return &kindError{fmt.Errorf("%s, but target_session_attrs=%s", no, want)}
}

// isReadOnly reports whether transactions of the session cannot write. Since version 14
// PostgreSQL says so in the start-up, unless a pooler is in between; otherwise the
// server is asked.
func (s *session) isReadOnly() (bool, error) {
	readOnly, told := s.wire.Parameter("default_transaction_read_only")
	standby, toldToo := s.wire.Parameter("in_hot_standby")
	if told && toldToo {
		return readOnly == "on" || standby == "on", nil
	}
	return s.askStart("SHOW transaction_read_only")
}

// isStandby is like isReadOnly: the start-up says so, or the server is asked.
func (s *session) isStandby() (bool, error) {
	if standby, told := s.wire.Parameter("in_hot_standby"); told {
		return standby == "on", nil
	}
	return s.askStart("SELECT pg_catalog.pg_is_in_recovery()")
}

// askStart runs a query during the start-up whose answer is one boolean, or on or off.
// Like the rest of the start-up, it is ended by closing the socket.
func (s *session) askStart(query string) (bool, error) {
	rows, err := s.pq.QueryContext(background, query, nil)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	if len(row) != 1 {
		return false, fmt.Errorf("%s: the answer has %d columns", query, len(row))
	}
	if err := rows.Next(row); err != nil {
		return false, fmt.Errorf("%s: %w", query, err)
	}
	switch v := row[0].(type) {
	case bool:
		return v, nil
	case string:
		return v == "on", nil
	case []byte:
		return string(v) == "on", nil
	}
	return false, fmt.Errorf("%s: the answer is %v", query, row[0])
}
