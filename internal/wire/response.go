package wire

import (
	"bytes"

	"github.com/lib/pq/pqerror"
)

// Response holds the fields of an ErrorResponse or a NoticeResponse, which share their
// format: https://www.postgresql.org/docs/current/protocol-error-fields.html. The names
// and the order of the fields are those of the exported Notice type, so that one
// converts to the other.
type Response struct {
	Severity             string
	SeverityNonLocalized string
	Code                 pqerror.Code
	Message              string
	Detail               string
	Hint                 string
	Position             string
	InternalPosition     string
	InternalQuery        string
	Where                string
	Schema               string
	Table                string
	Column               string
	DataTypeName         string
	Constraint           string
	File                 string
	Line                 string
	Routine              string
}

// Fatal reports whether the server ends the session with this message.
func (r *Response) Fatal() bool { return r.severity() == "FATAL" || r.severity() == "PANIC" }

// endsSession reports whether a notice is all that the server will say about the end of
// the session: after an immediate shutdown, or the crash of another process.
func (r *Response) endsSession() bool {
	return (r.Code == "57P01" || r.Code == "57P02") && r.severity() != "NOTICE"
}

// severity is the localised one only for servers before 9.6, which send no other.
func (r *Response) severity() string {
	if r.SeverityNonLocalized != "" {
		return r.SeverityNonLocalized
	}
	return r.Severity
}

// set sets a field. As the protocol demands, unknown fields are ignored.
func (r *Response) set(field byte, value string) {
	switch field {
	case 'S':
		r.Severity = value
	case 'V':
		r.SeverityNonLocalized = value
	case 'C':
		r.Code = pqerror.Code(value)
	case 'M':
		r.Message = value
	case 'D':
		r.Detail = value
	case 'H':
		r.Hint = value
	case 'P':
		r.Position = value
	case 'p':
		r.InternalPosition = value
	case 'q':
		r.InternalQuery = value
	case 'W':
		r.Where = value
	case 's':
		r.Schema = value
	case 't':
		r.Table = value
	case 'c':
		r.Column = value
	case 'd':
		r.DataTypeName = value
	case 'n':
		r.Constraint = value
	case 'F':
		r.File = value
	case 'L':
		r.Line = value
	case 'R':
		r.Routine = value
	}
}

// nextField cuts the first field off body: its type, its value without the
// terminator, and what follows. A field of type 0 ends the list.
func nextField(body []byte) (field byte, value, rest []byte, ok bool) {
	if len(body) == 0 {
		return 0, nil, nil, false
	}
	if body[0] == 0 {
		return 0, nil, body[1:], true
	}
	i := bytes.IndexByte(body[1:], 0)
	if i < 0 {
		return 0, nil, nil, false
	}
	return body[0], body[1 : 1+i], body[2+i:], true
}

// ParseResponse reads the body of a message of the given type, 'E' or 'N'. The
// strings are copies.
func ParseResponse(typ byte, body []byte) (*Response, error) {
	r := new(Response)
	for {
		field, value, rest, ok := nextField(body)
		if !ok {
			return nil, &FrameError{Type: typ, Reason: "a field has no terminator"}
		}
		if field == 0 {
			return r, nil
		}
		r.set(field, string(value))
		body = rest
	}
}

// checkError walks over an ErrorResponse without copying it. It reports whether the
// message is fatal, and an error if its fields are not well formed, which lib/pq takes
// for granted.
func checkError(body []byte) (fatal bool, err error) {
	var localized, severity []byte
	for {
		field, value, rest, ok := nextField(body)
		if !ok {
			return false, &FrameError{Type: 'E', Reason: "a field has no terminator"}
		}
		switch field {
		case 0:
			if severity == nil {
				severity = localized
			}
			return string(severity) == "FATAL" || string(severity) == "PANIC", nil
		case 'S':
			localized = value
		case 'V':
			severity = value
		}
		body = rest
	}
}
