package states_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A ledger keeps what left the program, what reached the server, and what the server
// answered, for each token.
type ledger struct {
	mu      sync.Mutex // guards the fields below
	entries map[token]*entry
}

// An entry is what is known of one call.
type entry struct {
	sent     int // how often it left
	refused  int // of these, how often it got an error instead of BindComplete
	answered bool
	answer   // the last one
}

// An answer to a call is what the server has sent for it, up to the ReadyForQuery.
type answer struct {
	session *session
	rows    []string // their labels
	counts  []int64  // of its CommandCompletes
	failed  bool     // there is an error in it
	silent  bool     // it was held back, or is not complete
	odd     bool     // it is not as the protocol demands
	ended   bool     // its ReadyForQuery was sent
	owed    int      // the session's last notice, or notification of its own, before it
}

// A result is what a call returned.
type result struct {
	rows    []string
	count   int64 // of rows affected
	counted bool  // count is known
	whole   bool  // rows were read to the end, or nobody wanted them
	err     error
	patient bool // err is not due to a context that ended, or to a cancel request
	mayFail bool // for reasons that the ledger does not know
}

func newLedger() *ledger { return &ledger{entries: make(map[token]*entry)} }

func (l *ledger) entryLocked(k token) *entry {
	e := l.entries[k]
	if e == nil {
		e = new(entry)
		l.entries[k] = e
	}
	return e
}

// change has f change the entry of a call.
func (l *ledger) change(k token, f func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.entryLocked(k))
}

// left notes that a call is about to leave.
func (l *ledger) left(k token) { l.change(k, func(e *entry) { e.sent++ }) }

// stayed notes that nothing of it has.
func (l *ledger) stayed(k token) { l.change(k, func(e *entry) { e.sent-- }) }

// take returns the entry of a call that has returned, and forgets it.
func (l *ledger) take(k token) entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := *l.entryLocked(k)
	delete(l.entries, k)
	return e
}

// audit returns what is wrong with the result of a call, "" if nothing is.
func (e *entry) audit(k token, r result) string {
	if e.sent-e.refused > 1 {
		return fmt.Sprintf("%s left %d times, and was refused %d times", k, e.sent, e.refused)
	}
	if e.answered && e.session.shifted.Load() {
		return "" // nobody can tell
	}
	if wrong := e.auditRows(k, r); wrong != "" {
		return wrong
	}
	switch excused := r.mayFail || !r.patient; {
	case r.err == nil && !e.answered && r.whole:
		return fmt.Sprintf("%s has a result, and was not answered", k)
	case r.err == nil && r.whole && e.failed:
		return fmt.Sprintf("%s succeeded, but the answer was an error", k)
	case r.err == nil && r.counted && !slices.Contains(e.counts, r.count):
		return fmt.Sprintf("%s got the count %d, and was sent %d", k, r.count, e.counts)
	case r.err == nil && r.counted && !e.odd && r.count != e.counts[len(e.counts)-1]:
		return fmt.Sprintf("%s got the count %d of another statement than the last of %d", k, r.count, e.counts)
	case r.err != nil && !excused && e.answered && !e.failed && !e.odd && !e.silent && !e.session.odd.Load():
		return fmt.Sprintf("%s failed for no reason: %v", k, r.err)
	}
	return ""
}

func (e *entry) auditRows(k token, r result) string {
	for i, label := range r.rows {
		if i >= len(e.rows) || label != e.rows[i] {
			if owner, _, _ := strings.Cut(label, "/"); owner != k.String() {
				return fmt.Sprintf("%s got the answer of %s: row %d is %q", k, owner, i, label)
			}
			return fmt.Sprintf("%s got as row %d %q; the server sent %d rows", k, i, label, len(e.rows))
		}
	}
	if r.err == nil && r.whole && !r.counted && len(r.rows) < len(e.rows) {
		return fmt.Sprintf("%s got %d rows of %d, and no error", k, len(r.rows), len(e.rows))
	}
	return ""
}

// A ledger that is wrong is found out.
func TestLedgerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	good, odd, shifted := new(session), new(session), new(session)
	odd.odd.Store(true)
	shifted.shifted.Store(true)
	rows := func(labels ...string) []string { return labels }
	failure := fmt.Errorf("failed")
	for name, c := range map[string]struct {
		entry entry
		got   result
		want  string // "" where nothing is wrong
	}{
		"right":               {entry{sent: 1, answered: true, answer: answer{session: good, rows: rows("k7/1", "k7/2")}}, result{rows: rows("k7/1", "k7/2"), whole: true}, ""},
		"closed early":        {entry{sent: 1, answered: true, answer: answer{session: good, rows: rows("k7/1", "k7/2")}}, result{rows: rows("k7/1")}, ""},
		"another's":           {entry{sent: 1, answered: true, answer: answer{session: good, rows: rows("k7/1")}}, result{rows: rows("k6/1"), whole: true}, "answer of k6"},
		"another's, odd":      {entry{sent: 1, answered: true, answer: answer{session: odd, rows: rows("k7/1"), odd: true}}, result{rows: rows("k6/1"), whole: true}, "answer of k6"},
		"another's, hopeless": {entry{sent: 1, answered: true, answer: answer{session: shifted, rows: rows("k7/1")}}, result{rows: rows("k6/1"), whole: true}, ""},
		"too few":             {entry{sent: 1, answered: true, answer: answer{session: good, rows: rows("k7/1", "k7/2")}}, result{rows: rows("k7/1"), whole: true}, "1 rows of 2"},
		"too many":            {entry{sent: 1, answered: true, answer: answer{session: good, rows: rows("k7/1")}}, result{rows: rows("k7/1", "k7/2"), whole: true}, "as row 1"},
		"count":               {entry{sent: 1, answered: true, answer: answer{session: good, counts: []int64{6, 7}}}, result{count: 7, counted: true, whole: true}, ""},
		"another's count":     {entry{sent: 1, answered: true, answer: answer{session: good, counts: []int64{7}}}, result{count: 6, counted: true, whole: true}, "count 6"},
		"not the last count":  {entry{sent: 1, answered: true, answer: answer{session: good, counts: []int64{6, 7}}}, result{count: 6, counted: true, whole: true}, "than the last"},
		"twice":               {entry{sent: 2, answered: true, answer: answer{session: good}}, result{whole: true}, "left 2 times"},
		"refused, then made":  {entry{sent: 2, refused: 1, answered: true, answer: answer{session: good}}, result{whole: true}, ""},
		"out of the blue":     {entry{}, result{whole: true}, "was not answered"},
		"error hidden":        {entry{sent: 1, answered: true, answer: answer{session: good, failed: true}}, result{whole: true}, "was an error"},
		"error":               {entry{sent: 1, answered: true, answer: answer{session: good, failed: true}}, result{err: failure, patient: true}, ""},
		"false alarm":         {entry{sent: 1, answered: true, answer: answer{session: good}}, result{err: failure, patient: true}, "no reason"},
		"alarm":               {entry{sent: 1, answered: true, answer: answer{session: odd}}, result{err: failure, patient: true}, ""},
		"cancelled":           {entry{sent: 1, answered: true, answer: answer{session: good}}, result{err: failure}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.entry.audit(7, c.got)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
