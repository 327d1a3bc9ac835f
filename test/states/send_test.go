package states_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// flush sends what was replied, or something else. It reports false when the connection
// ends.
func (s *session) flush() bool {
	dice := s.choices('S')
	o := output{frames: s.out}
	s.out = nil
	s.mu.Lock()
	o.frames = s.addNoise(o.frames, dice)
	s.mu.Unlock()
	if !s.server.calm.Load() {
		if o.hold = s.token != 0 && o.readies() > 0 && dice.Float64() < s.server.w.holds; o.hold {
			s.holdBack(&o, dice)
		}
		if dice.Float64() < s.server.w.mischief {
			makeMischief(&o, dice)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(o, dice)
}

// holdBack waits for a cancel request, or until the program has given up, or answers
// late.
func (s *session) holdBack(o *output, dice *rand.Rand) {
	if s.token != 0 {
		s.server.w.ledger.change(s.token, func(e *entry) { e.silent = true })
	}
	patience := between(dice, 0, 30*time.Millisecond)
	if dice.IntN(2) == 0 {
		patience = 10 * time.Second
	}
	deaf := dice.IntN(10) == 0
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-s.cancelled:
			if deaf {
				continue
			}
			if s.status == 'T' {
				s.status = 'E'
			}
			o.frames = [][]byte{pgfake.Error("ERROR", "57014", "canceling statement due to user request"), pgfake.Ready(s.status)}
		case <-timer.C:
		case <-s.server.w.over:
		}
		return
	}
}

// write writes down what a program must make of an output, and sends it. It reports
// false when the connection ends.
func (s *session) write(o output, dice *rand.Rand) bool {
	if o.odd != "" || o.end != goesOn {
		s.odd.Store(true)
	}
	if o.shifts() || s.odd.Load() && o.readies() > 1 || s.ping && s.stray {
		s.shifted.Store(true)
	}
	s.stray = s.stray || o.odd != "" && (o.readies() > 1 || !s.busy && o.readies() > 0)
	s.number(o.frames)
	s.account(&o)
	s.server.w.trace.add("s%d > %s %s%s", s.pid, shape(o.frames), o.odd, []string{"", "; closes", "; resets", "; falls silent"}[o.end])
	all := bytes.Join(o.frames, nil)
	if o.end != goesOn {
		all = all[:max(0, len(all)-o.cut)]
	}
	if len(all) > 1 && dice.IntN(6) == 0 { // in two pieces
		at := dice.IntN(len(all))
		if _, err := s.Write(all[:at]); err != nil {
			return false
		}
		if all = all[at:]; dice.IntN(2) == 0 {
			time.Sleep(between(dice, 0, time.Millisecond))
		}
	}
	if _, err := s.Write(all); err != nil {
		return false
	}
	if o.end == resets {
		_ = pgfake.Reset()(s.Session)
	}
	s.silent.Store(o.end == fallsSilent)
	return o.end == goesOn
}

// number gives the notices and notifications of an output their numbers.
func (s *session) number(frames [][]byte) {
	ended := false
	owe := func() {
		if s.busy && !ended {
			s.owed = s.event
		}
	}
	for i, f := range frames {
		ended = ended || f[0] == 'Z'
		if len(f) > 1 {
			continue
		}
		s.numbers.pid = s.pid
		s.event++
		switch f[0] {
		case 'N':
			frames[i] = pgfake.Notice("NOTICE", "00000", s.numbers.String())
			owe()
		case 'A':
			s.heard++
			channel, sender := "unheard", uint32(1)
			for channel = range s.listening { // any of them
				break
			}
			if s.event%2 == 0 {
				sender = s.pid
				owe()
			}
			s.carried[channel]++
			s.onChannel = s.carried[channel]
			frames[i] = pgfake.Notification(sender, channel, s.numbers.String())
		}
	}
}

// account writes down what the request under way gets.
func (s *session) account(o *output) {
	if s.token == 0 || !s.busy {
		return
	}
	s.server.w.ledger.change(s.token, func(e *entry) {
		if e.session != s || s.bound {
			e.answer = answer{session: s, silent: e.silent}
		}
		if e.answered = true; s.bound && o.refuses() {
			e.refused++
		}
		o.note(&e.answer)
		e.odd = e.odd || s.odd.Load()
		e.owed = s.owed
	})
	s.bound = false
}

// addNoise adds messages that may come at any time.
func (s *session) addNoise(frames [][]byte, dice *rand.Rand) [][]byte {
	for dice.Float64() < s.server.w.noise {
		at := dice.IntN(len(frames) + 1)
		frames = append(frames[:at:at], append(s.noise(dice, 1+dice.IntN(3)), frames[at:]...)...)
	}
	return frames
}

// noise returns messages that may come at any time. A session that does not listen gets
// notifications seldom: the pool does not keep it then.
func (s *session) noise(dice *rand.Rand, n int) (frames [][]byte) {
	kinds := 20
	if len(s.listening) > 0 {
		kinds = 60
	}
	for range n {
		switch k := dice.IntN(kinds); {
		case k < 10:
			frames = append(frames, []byte("N"))
		case k < 19:
			frames = append(frames, parameter(dice))
		default:
			frames = append(frames, []byte("A"))
		}
	}
	return frames
}

// parameter returns a ParameterStatus.
func parameter(dice *rand.Rand) []byte {
	all := []string{"application_name=a", "TimeZone=UTC", "TimeZone=Europe/Berlin", "in_hot_standby=off",
		"default_transaction_read_only=off", "search_path=public", "x=y"}
	name, value, _ := strings.Cut(all[dice.IntN(len(all))], "=")
	return pgfake.Parameter(name, value)
}
