package pgnotify_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// modelChannels are the channels over which a modelServer sends.
var modelChannels = []string{"a", "b", "c", "d"}

// A modelServer is a PostgreSQL server as far as a Listener needs one: it keeps what
// each session listens to, and sends numbers over channels. It counts them up in one
// sequence for all channels, and keeps the history of what was sent and when. Unlike a
// real one it breaks whatever can break, as often as it is told to.
type modelServer struct {
	*pgfake.Server
	t       testing.TB
	choices choices                              // of the sessions
	serving func(*rand.Rand) (pooled, deaf bool) // chooses how a session is served

	mu       sync.Mutex // guards the fields below, and those of the sessions
	gentle   bool       // no LISTEN of a probe gets lost, which has a heartbeat find that out
	sessions map[*modelSession]bool
	pids     int
	history
}

// A modelSession is what a client has of the server. Behind a pooler, the process that
// serves it may change, and may be one whose notifications nobody passes on.
type modelSession struct {
	*pgfake.Session
	server    *modelServer
	dice      *rand.Rand // of its writer
	pid       int
	deaf      bool
	listening map[string]bool
	out       [][]byte  // messages that were not sent yet
	came      sync.Cond // signalled when out or over changes
	over      bool      // nothing more is sent, but for out
}

// newModelServer starts a server. serving says of a session, at its beginning and
// whenever it gets another process, whether that is another one than the start-up told
// of, as it is behind a pooler, and whether it is deaf, as in transaction mode.
func newModelServer(t testing.TB, seed uint64, serving func(*rand.Rand) (pooled, deaf bool)) *modelServer {
	t.Helper()
	s := &modelServer{t: t, choices: choices{seed: seed}, serving: serving, pids: pgfake.PID, sessions: make(map[*modelSession]bool)}
	s.sent = make([][]int64, len(modelChannels))
	s.Server = pgfake.Start(t, pgfake.Script{pgfake.Greet(), s.serve})
	return s
}

// serve is a session, after its start-up.
func (s *modelServer) serve(c *pgfake.Session) error {
	x := &modelSession{Session: c, server: s, dice: s.choices.dice(), listening: make(map[string]bool)}
	x.came.L = &s.mu
	s.mu.Lock()
	x.pid = pgfake.PID
	if pooled, deaf := s.serving(x.dice); pooled {
		x.moveLocked(deaf, "")
	}
	s.sessions[x] = true
	s.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(x.write) // ends when the session is over; joined below
	x.answerAll(s.choices.dice())
	s.mu.Lock()
	x.killLocked()
	s.mu.Unlock()
	writer.Wait()
	return nil
}

// notify sends the next number over a channel.
func (s *modelServer) notify(channel int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	n, name := int64(len(s.times)), modelChannels[channel]
	s.sent[channel] = append(s.sent[channel], n)
	s.broadcastLocked(name, fmt.Sprint(n))
	return n
}

// broadcastLocked sends a notification to all who listen, and can hear.
func (s *modelServer) broadcastLocked(channel, payload string) {
	for x := range s.sessions {
		if x.listening[channel] && !x.deaf {
			x.sendLocked(pgfake.Notification(1, channel, payload))
		}
	}
}

// last returns the last number that was sent.
func (s *modelServer) last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.times))
}

// ledger begins one for who has just subscribed to some of the channels.
func (s *modelServer) ledger(name string, channels []string) *ledger {
	base, last := slices.Repeat([]int64{notWanted}, len(modelChannels)), s.last()
	for _, channel := range channels {
		base[slices.Index(modelChannels, channel)] = last
	}
	return newLedger(name, modelChannels, base)
}

// breakSome lets something happen to each session, or nothing.
func (s *modelServer) breakSome(dice *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sessions {
		kind := dice.IntN(10)
		if kind > 1 && s.gentle && x.isProbed() {
			continue
		}
		switch kind {
		case 0:
			x.killLocked()
		case 1:
			x.terminateLocked()
		case 2, 3:
			x.forgetLocked(dice)
		case 4:
			_, deaf := s.serving(dice)
			x.moveLocked(deaf, "")
		case 5, 6:
			_, deaf := s.serving(dice)
			x.moveLocked(deaf, modelChannels[dice.IntN(len(modelChannels))])
		}
	}
}

// moveAll has other processes serve the sessions that listen.
func (s *modelServer) moveAll(deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sessions {
		if len(x.listening) > 0 {
			x.moveLocked(deaf, "")
		}
	}
}

func (x *modelSession) isProbed() bool {
	for name := range x.listening {
		if strings.HasPrefix(name, "pgnotify_probe") {
			return true
		}
	}
	return false
}

// forgetLocked has the session no longer listen to some channels.
func (x *modelSession) forgetLocked(dice *rand.Rand) {
	for _, name := range modelChannels {
		if dice.IntN(2) == 0 {
			delete(x.listening, name)
		}
	}
}

// moveLocked has another process of the server serve the session. It listens to
// nothing, or to one channel, which a careless pooler has left it with, but not to one
// that the session did not hear before: nobody could tell what was missed of a channel
// that falls silent and comes back by itself.
func (x *modelSession) moveLocked(deaf bool, left string) {
	x.server.pids++
	x.pid = x.server.pids
	maps.DeleteFunc(x.listening, func(name string, _ bool) bool { return name != left || x.deaf })
	x.deaf = deaf
}

// killLocked ends the session at once, wherever its writer is in a message.
func (x *modelSession) killLocked() {
	x.endLocked()
	x.Close()
}

// terminateLocked ends the session as pg_terminate_backend does: with a last message.
func (x *modelSession) terminateLocked() {
	x.endLocked(pgfake.Error("FATAL", "57P01", "terminating connection due to administrator command"))
}

func (x *modelSession) endLocked(messages ...[]byte) {
	delete(x.server.sessions, x)
	x.out, x.over = messages, true
	x.came.Broadcast()
}

// sendLocked has the writer send messages.
func (x *modelSession) sendLocked(messages ...[]byte) {
	if !x.over {
		x.out = append(x.out, messages...)
		x.came.Broadcast()
	}
}

// write sends what is to be sent, cut anywhere, and with pauses.
func (x *modelSession) write() {
	defer x.Close()
	for b := x.next(); len(b) > 0; b = x.next() {
		cut, pause := len(b), time.Duration(0)
		if x.dice.IntN(5) == 0 {
			cut, pause = x.dice.IntN(len(b)), between(x.dice, -2*time.Millisecond, 2*time.Millisecond) // below 0: none
		}
		if _, err := x.Write(b[:cut]); err != nil {
			return
		}
		time.Sleep(pause)
		if _, err := x.Write(b[cut:]); err != nil {
			return
		}
	}
}

// next waits for messages, and takes some of them: none when the session is over.
func (x *modelSession) next() []byte {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	for len(x.out) == 0 && !x.over {
		x.came.Wait()
	}
	some := len(x.out)
	if some > 1 && x.dice.IntN(4) > 0 {
		some = 1 + x.dice.IntN(some)
	}
	b := bytes.Join(x.out[:some], nil)
	x.out = x.out[some:]
	return b
}

// answerAll answers requests, some of them late, until the client has gone.
func (x *modelSession) answerAll(dice *rand.Rand) {
	late := func() {
		if dice.IntN(3) == 0 {
			time.Sleep(between(dice, 0, 1500*time.Microsecond))
		}
	}
	for {
		typ, body, err := x.Message()
		if err != nil || typ == 'X' {
			return
		}
		late()
		x.answer(string(body))
		late() // what is sent now stands before the end of the answer
		x.server.mu.Lock()
		x.sendLocked(pgfake.Ready('I'))
		x.server.mu.Unlock()
	}
}

var (
	listenStatement = regexp.MustCompile(`\b(LISTEN|UNLISTEN) "(\w+)"`)
	notifyStatement = regexp.MustCompile(`\bNOTIFY "(\w+)"`)
)

// answer makes a request, and answers all but the ReadyForQuery.
func (x *modelSession) answer(query string) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	statements := listenStatement.FindAllStringSubmatch(query, -1)
	if note := notifyStatement.FindStringSubmatch(query); note != nil {
		x.server.broadcastLocked(note[1], "")
		x.sendLocked(pgfake.Complete("NOTIFY"))
		return
	}
	switch {
	case strings.Contains(query, "pg_listening_channels"):
		frames := heartbeatFrames(x.pid, slices.Collect(maps.Keys(x.listening))...)
		x.sendLocked(frames[:len(frames)-1]...)
	case strings.Contains(query, `"bad`): // refused as a whole: it is one transaction
		x.sendLocked(pgfake.Error("ERROR", "22021", "a name that the model server does not like"))
	case len(statements) == 0:
		x.server.t.Errorf("the model server was asked for %q", query)
	default:
		for _, s := range statements {
			x.makeLocked(s[1], s[2])
		}
		if strings.Contains(query, "pg_backend_pid") {
			frames := backendFrames(x.pid)
			x.sendLocked(frames[:len(frames)-1]...)
		}
	}
}

// makeLocked makes a LISTEN or an UNLISTEN.
func (x *modelSession) makeLocked(command, channel string) {
	if delete(x.listening, channel); command == "LISTEN" {
		x.listening[channel] = true
	}
	x.sendLocked(pgfake.Complete(command))
}
