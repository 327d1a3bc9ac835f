package states_test

import (
	"encoding/binary"
	"strings"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// extended answers a message of the extended protocol.
func (s *session) extended(typ byte, body string) {
	switch typ {
	case 'P':
		name, rest, _ := strings.Cut(body, "\x00")
		text, _, _ := strings.Cut(rest, "\x00")
		if s.choices('P').IntN(40) == 0 {
			s.fail("42601", "syntax error")
			return
		}
		s.prepared[name] = text
		s.reply(pgfake.Frame('1', ""))
	case 'D':
		s.describe(body[0], strings.TrimSuffix(body[1:], "\x00"))
	case 'B':
		s.bind(body)
	case 'E':
		s.execute()
	case 'C':
		if body[0] == 'S' {
			delete(s.prepared, strings.TrimSuffix(body[1:], "\x00"))
		}
		s.reply(pgfake.Frame('3', ""))
	default:
		s.server.w.fail("the server was sent %q %q", typ, body)
	}
}

func (s *session) describe(what byte, name string) {
	st := s.portal
	if what == 'S' {
		text, ok := s.prepared[name]
		if !ok {
			s.fail("26000", "prepared statement does not exist")
			return
		}
		st = first(text)
		params := "\x00" + string([]byte{byte(st.params)})
		for range st.params {
			params += "\x00\x00\x00\x19" // text
		}
		s.reply(pgfake.Frame('t', params))
	}
	if st.verb == "SELECT" {
		s.reply(rowFrames(0, 0, 0, 0)[0])
	} else {
		s.reply(pgfake.Frame('n', ""))
	}
}

// first returns the statement of a text, which has no more than one.
func first(text string) (st statement) {
	for _, st = range parse(text) {
		break
	}
	return st
}

// bind reads a Bind. Now and then the server has forgotten its statements.
func (s *session) bind(body string) {
	s.bound = true
	_, rest, _ := strings.Cut(body, "\x00")
	name, rest, _ := strings.Cut(rest, "\x00")
	if name != "" && s.choices('B').IntN(30) == 0 {
		clear(s.prepared)
	}
	text, ok := s.prepared[name]
	if !ok {
		s.fail("26000", "prepared statement does not exist")
		return
	}
	s.portal = first(text)
	formats := int(binary.BigEndian.Uint16([]byte(rest)))
	rest = rest[2+2*formats:]
	if params := int(binary.BigEndian.Uint16([]byte(rest))); params != s.portal.params {
		s.fail("08P01", "wrong number of parameters")
		return
	}
	if s.portal.params > 0 {
		n := binary.BigEndian.Uint32([]byte(rest[2:]))
		s.portal.token = tokenOf(rest[6 : 6+n])
	}
	s.reply(pgfake.Frame('2', ""))
}

// execute runs the bound statement. Its rows were described before.
func (s *session) execute() {
	before := len(s.out)
	s.run(s.portal, s.choices('E'))
	if s.portal.verb == "SELECT" && len(s.out) > before && s.out[before][0] == 'T' {
		s.out = append(s.out[:before], s.out[before+1:]...)
	}
}
