package states_test

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// traceLength is how many lines a trace keeps.
const traceLength = 120

// A trace keeps the last things that happened in a world.
type trace struct {
	began time.Time

	mu    sync.Mutex // guards the fields below
	lines [traceLength]string
	next  int
}

func (t *trace) add(format string, args ...any) {
	line := fmt.Sprintf("%9.3fms "+format, append([]any{float64(time.Since(t.began).Microseconds()) / 1000}, args...)...)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines[t.next%traceLength] = line
	t.next++
}

func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for i := max(0, t.next-traceLength); i < t.next; i++ {
		b.WriteString("\t" + t.lines[i%traceLength] + "\n")
	}
	return b.String()
}

// shape describes messages by their types: repeated ones are counted.
func shape(frames [][]byte) string {
	var b strings.Builder
	for i := 0; i < len(frames); {
		n := 1
		for i+n < len(frames) && frames[i+n][0] == frames[i][0] {
			n++
		}
		if b.WriteByte(frames[i][0]); n > 1 {
			fmt.Fprintf(&b, "×%d", n)
		}
		b.WriteByte(' ')
		i += n
	}
	return strings.TrimSpace(b.String())
}
