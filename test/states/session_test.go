package states_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A session is what a client has of the server.
type session struct {
	*pgfake.Session
	server  *server
	pid     uint32
	odd     atomic.Bool // it has not kept to the protocol, or was ended
	shifted atomic.Bool // it has sent a whole answer to nothing
	silent  atomic.Bool // it does not answer any more
	dice    *rand.Rand  // for what belongs to no token

	// Of the goroutine that answers.
	status   byte              // of the transaction
	prepared map[string]string // texts
	portal   statement         // bound
	skipping bool              // after an error, until Sync
	token    token             // of the request under way; 0 if it has none
	bound    bool              // the output under way answers a Bind
	ping     bool              // the request is an empty query
	out      [][]byte          // messages to be sent with the next flush
	at       int               // statements of the request so far

	mu        sync.Mutex // guards the fields below; held while something is sent
	greeted   bool       // the start-up is over
	busy      bool       // a request is being answered
	listening map[string]bool
	carried   map[string]int // notifications sent over each channel
	stray     bool           // a ReadyForQuery was sent that nobody had asked for
	cancelled chan struct{}  // has a token after a cancel request for the request under way

	numbers     // of what was sent
	owed    int // the number of the last notice, or notification of its own, amid the request under way
}

// answerAll answers requests until the connection ends.
func (s *session) answerAll() {
	for s.idle(); ; {
		typ, body, err := s.Message()
		if err != nil || typ == 'X' {
			return
		}
		s.mu.Lock()
		s.begin(typ, string(body))
		s.mu.Unlock()
		if !s.answer(typ, string(body)) {
			s.odd.Store(true) // whoever goes on with it finds it closed
			if s.silent.Load() {
				_ = pgfake.Drain()(s.Session)
			}
			return
		}
		if typ == 'Q' || typ == 'S' {
			s.idle()
		}
	}
}

// idle notes that a request was answered.
func (s *session) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greeted, s.busy = true, false
	s.token, s.bound, s.ping, s.at, s.owed = 0, false, false, 0, 0
}

// begin notes that a request, or the next message of one, has come.
func (s *session) begin(typ byte, body string) {
	if !s.busy {
		s.busy = true
		select {
		case <-s.cancelled: // it came too late for the last request
		default:
		}
	}
	if typ == 'Q' || typ == 'B' {
		s.token = tokenOf(body)
	}
	if typ == 'Q' {
		s.ping = body == ";\x00"
	}
}

// answer answers a message. It reports false when the connection ends.
func (s *session) answer(typ byte, body string) bool {
	s.server.w.trace.add("s%d < %c %.100q", s.pid, typ, body)
	switch typ {
	case 'Q':
		return s.query(strings.TrimSuffix(body, "\x00"))
	case 'H':
		return s.flush()
	case 'S':
		s.skipping = false
		s.reply(pgfake.Ready(s.status))
		return s.flush()
	case 'd', 'c', 'f': // of a COPY that has failed
		return true
	}
	if !s.skipping {
		s.extended(typ, body)
	}
	return true
}

// choices returns what one part of the answer to the request under way depends on.
func (s *session) choices(part byte) *rand.Rand {
	if s.token != 0 {
		return s.server.w.diceFor(uint64(part)<<48 | uint64(s.token))
	}
	return s.dice
}

func (s *session) reply(frames ...[]byte) { s.out = append(s.out, frames...) }

// query answers a simple query.
func (s *session) query(text string) bool {
	dice := s.choices('Q')
	statements := parse(text)
	if len(statements) == 0 {
		s.reply(pgfake.Frame('I', ""))
	}
	for _, st := range statements {
		s.skipping = false
		if st.verb == "COPY FROM STDIN" && s.status != 'E' {
			s.reply(pgfake.CopyIn(2))
			if !s.flush() || !s.copyIn(st, dice) {
				return false
			}
		} else if s.run(st, dice); s.skipping {
			break
		}
	}
	s.skipping = false
	s.reply(pgfake.Ready(s.status))
	return s.flush()
}

// fail answers with an error.
func (s *session) fail(code, message string) {
	s.reply(pgfake.Error("ERROR", code, message))
	s.skipping = true
	if s.status == 'T' {
		s.status = 'E'
	}
}

// run runs a statement, all but its description in the extended protocol.
func (s *session) run(st statement, dice *rand.Rand) {
	s.at++
	if s.status == 'E' && !strings.HasPrefix(st.verb, "ROLLBACK") && st.verb != "COMMIT" {
		s.fail("25P02", "current transaction is aborted")
		return
	}
	fails := st.token != 0 && dice.IntN(25) == 0
	tag := st.verb
	switch st.verb {
	case "SELECT":
		frames := rowFrames(st.token, s.at, st.rows, st.size)
		if fails {
			frames = frames[:1+dice.IntN(len(frames))]
		}
		s.reply(frames...)
		tag = fmt.Sprintf("SELECT %d", st.token)
	case "INSERT":
		tag = fmt.Sprintf("INSERT 0 %d", st.token)
	case "COPY TO STDOUT":
		s.reply(pgfake.Frame('H', "\x00\x00\x01\x00\x00"), pgfake.Frame('d', st.token.String()+"\n"), pgfake.Frame('c', ""))
		tag = fmt.Sprintf("COPY %d", st.token)
	case "heartbeat":
		s.reply(s.heartbeat()...)
		tag = "SELECT 1"
	default:
		s.command(st)
	}
	if fails {
		s.fail("22012", "division by zero")
		return
	}
	s.reply(pgfake.Complete(tag))
}

// command runs a statement that changes the session.
func (s *session) command(st statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch st.verb {
	case "BEGIN":
		s.status = 'T'
	case "COMMIT", "ROLLBACK":
		s.status = 'I'
	case "ROLLBACK TO":
		s.status = 'T'
	case "LISTEN":
		s.listening[st.channel] = true
	case "UNLISTEN":
		if delete(s.listening, st.channel); st.channel == "" {
			clear(s.listening)
		}
	}
}

// heartbeat returns the row that a Listener asks for.
func (s *session) heartbeat() [][]byte {
	const oidInt4, oidBool, oidFloat8, oidText = 23, 16, 701, 25
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.listening {
		names = append(names, name)
	}
	return [][]byte{pgfake.ColumnsOf(oidInt4, oidBool, oidFloat8, oidText),
		pgfake.Row(fmt.Sprint(s.pid), "f", "0.25", "{"+strings.Join(names, ",")+"}")}
}

// copyIn takes the data of a COPY. It reports false when the connection ends.
func (s *session) copyIn(st statement, dice *rand.Rand) bool {
	early := dice.IntN(6) == 0 // it fails before all data is there
	for rows := 0; ; {
		typ, body, err := s.Message()
		if err != nil || typ == 'X' {
			return false
		}
		switch typ {
		case 'd':
			if rows += bytes.Count(body, []byte("\n")); !early {
				continue
			}
			s.fail("22P02", "invalid input syntax")
		case 'c':
			if s.reply(pgfake.Complete(fmt.Sprintf("COPY %d", rows))); dice.IntN(6) == 0 {
				s.out = s.out[:len(s.out)-1]
				s.fail("23505", "duplicate key value")
			}
		case 'f':
			s.fail("57014", "COPY from stdin failed")
		case 'H', 'S':
			continue
		default:
			s.fail("08P01", "unexpected message during COPY from stdin")
		}
		s.server.w.trace.add("s%d: COPY has ended by %c after %d rows", s.pid, typ, rows)
		return true
	}
}
