package pgnotify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A logbook keeps what a Listener logs. It is safe for concurrent use.
type logbook struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logbook) option(c *pgnotify.ListenerConfig) {
	c.Logger = slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// find returns the first record with a message that has the attributes; a nil one may
// have any value but an empty one.
func (b *logbook) find(t *testing.T, level slog.Level, message string, attrs map[string]any) map[string]any {
	t.Helper()
	text := b.String()
next:
	for line := range strings.Lines(text) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] != message || record["level"] != level.String() {
			continue
		}
		for name, want := range attrs {
			if got := fmt.Sprint(record[name]); record[name] == nil || got == "" || want != nil && got != fmt.Sprint(want) {
				continue next
			}
		}
		return record
	}
	t.Errorf("no record %v %q with %v in\n%s", level, message, attrs, text)
	return nil
}

// The log tells people the same as OnEvent tells the program: what needs attention as a
// warning, the end of that as information, and the rest for who debugs.
func TestListenerLogsItsEvents(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	var log logbook
	l, events := listen(t, dsn(t), log.option)
	channel := uniqueName("a")
	subscribeWith(t, l, pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: 2})
	first := events.await(t, pgnotify.ListenerConnected, 1)
	terminate(t, db, first.PID)
	second := events.await(t, pgnotify.ListenerConnected, 2)
	notifyAtOnce(t, db, channel, "1", "2", "3")
	events.await(t, pgnotify.ListenerSlowConsumer, 1)
	l.Close()
	events.await(t, pgnotify.ListenerClosed, 1)
	const said = "pgnotify: listener: "
	for _, e := range []pgnotify.ListenerEvent{first, second} {
		log.find(t, slog.LevelInfo, said+"connected", map[string]any{"host": e.Host, "pid": e.PID})
	}
	lost := log.find(t, slog.LevelWarn, said+"disconnected", map[string]any{"host": first.Host, "pid": first.PID, "error": nil})
	log.find(t, slog.LevelDebug, said+"reconnecting", map[string]any{"attempt": 1, "delay": 0})
	log.find(t, slog.LevelWarn, said+"slow consumer", map[string]any{"channels": channel})
	log.find(t, slog.LevelDebug, said+"closed", nil)
	gap, _ := log.find(t, slog.LevelWarn, said+"gap", map[string]any{"gap": nil})["gap"].(map[string]any)
	if gap["cause"] != pgnotify.GapReconnect.String() || gap["error"] != lost["error"] || gap["from"] == nil || gap["to"] == nil {
		t.Errorf("gap %v, lost because of %v", gap, lost["error"])
	}
}

// An attempt that failed is a warning that says why, and gives no secret away.
func TestListenerLogsNoSecrets(t *testing.T) {
	t.Parallel()
	var log logbook
	_, events := listen(t, ours(t).DSN()+" user=t_scram password=hush", log.option, quickRetries)
	events.await(t, pgnotify.ListenerReconnecting, 2)
	second := log.find(t, slog.LevelWarn, "pgnotify: listener: reconnecting", map[string]any{"attempt": 2, "delay": nil, "error": nil})
	if text := fmt.Sprint(second["error"]); !strings.Contains(text, "t_scram") || !strings.Contains(text, "password authentication failed") {
		t.Errorf("it does not tell why: %v", text)
	}
	if text := log.String(); strings.Contains(text, "hush") {
		t.Errorf("a secret in\n%s", text)
	}
}

// A panic in OnEvent is logged, with its stack, and the next event comes.
func TestOnEventThatPanics(t *testing.T) {
	t.Parallel()
	db := open(t, dsn(t))
	var log logbook
	events := newRecorder()
	l, _ := listen(t, dsn(t), log.option, func(c *pgnotify.ListenerConfig) {
		c.OnEvent = func(e pgnotify.ListenerEvent) {
			events.record(e)
			panic("not my day")
		}
	})
	sub := subscribe(t, l, uniqueName("a"))
	terminate(t, db, events.await(t, pgnotify.ListenerConnected, 1).PID)
	events.await(t, pgnotify.ListenerConnected, 2)
	wantGap(t, sub, pgnotify.AdminShutdown)
	record := log.find(t, slog.LevelError, "pgnotify: OnEvent panicked", map[string]any{"panic": "not my day", "stack": nil})
	if stack := fmt.Sprint(record["stack"]); !strings.Contains(stack, "listenerlog_test.go") {
		t.Errorf("the stack does not lead here: %s", stack)
	}
}
