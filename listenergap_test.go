package pgnotify_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// Acknowledgements of LISTEN and UNLISTEN, for scripted servers.
func acknowledged(tags ...string) pgfake.Step { return acknowledgedBy(pgfake.PID, tags...) }

// acknowledgedBy is acknowledged by a server process, which tells its number. Nobody
// minds if it was not asked.
func acknowledgedBy(pid int, tags ...string) pgfake.Step {
	return pgfake.Send(append(tagFrames(tags...), backendFrames(pid)...)...)
}

func tagFrames(tags ...string) (frames [][]byte) {
	for _, tag := range tags {
		frames = append(frames, pgfake.Complete(tag))
	}
	return frames
}

// backendFrames tell the number of a server process, and end the answer.
func backendFrames(pid int) [][]byte {
	const oidInt4 = 23
	return [][]byte{pgfake.ColumnsOf(oidInt4), pgfake.Row(fmt.Sprint(pid)), pgfake.Complete("SELECT 1"), pgfake.Ready('I')}
}

// L6, L7: a notification that comes as soon as the server has made the last LISTEN, before
// its answer is complete, is delivered, and the gap stands before it.
func TestGapStandsBeforeWhatComesWithTheAcknowledgement(t *testing.T) {
	t.Parallel()
	lose, lost := make(chan struct{}), make(chan struct{})
	_, dsn := scripted(t,
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN", "LISTEN"),
			pgfake.WaitFor(lose), pgfake.Send(pgfake.Notification(1, "b", "last"))},
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
			pgfake.Send(pgfake.Complete("LISTEN"), pgfake.Complete("LISTEN"), pgfake.Notification(1, "a", "first")),
			pgfake.WaitFor(lost), pgfake.Send(backendFrames(pgfake.PID)...), pgfake.Send(pgfake.Notification(1, "b", "second")), pgfake.Hang()},
	)
	l, _ := listen(t, dsn)
	sub := subscribe(t, l, "a", "b")
	close(lose)
	if e := event(t, sub); e.Payload != "last" {
		t.Errorf("%+v", e)
	}
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapReconnect {
		t.Errorf("gap %+v", gap)
	}
	if e := event(t, sub); e.Payload != "first" {
		t.Errorf("%+v", e)
	}
	close(lost)
	if e := event(t, sub); e.Payload != "second" {
		t.Errorf("%+v", e)
	}
}

// L7: while the LISTEN of the new session is not acknowledged, nothing tells a subscriber
// to look again: it would be too early.
func TestGapWaitsForTheAcknowledgement(t *testing.T) {
	t.Parallel()
	lose, asked, answer := make(chan struct{}), make(chan struct{}, 10), make(chan struct{})
	note := func(*pgfake.Session) error { asked <- struct{}{}; return nil }
	_, dsn := scripted(t,
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), acknowledged("LISTEN"), pgfake.WaitFor(lose)},
		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), note, pgfake.WaitFor(answer), acknowledged("LISTEN"), pgfake.Hang()},
	)
	l, events := listen(t, dsn)
	sub := subscribe(t, l, "a")
	close(lose)
	recv(t, asked)
	if stats := l.Stats(); stats.Queued != 0 || stats.Gaps != 0 {
		t.Errorf("before the acknowledgement: %+v", stats)
	}
	if told := events.all(pgnotify.ListenerGap); len(told) > 0 {
		t.Errorf("before the acknowledgement: %v", told)
	}
	acknowledgedAt := time.Now()
	close(answer)
	if gap := event(t, sub).Gap; gap == nil || gap.Cause != pgnotify.GapReconnect || gap.To.Before(acknowledgedAt) {
		t.Errorf("gap %+v", gap)
	}
}
