package pgnotify_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// The server's hint is in the text of an event and in the log, however deep its error is.
func TestListenerEventTellsTheHint(t *testing.T) {
	t.Parallel()
	server := &pq.Error{Code: "58P01", Message: "could not open file", Hint: "Check the extension."}
	e := pgnotify.ListenerEvent{Kind: pgnotify.ListenerReconnecting, Attempt: 2, Err: fmt.Errorf("deep: %w", server)}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "event", e)
	if text := e.String(); !strings.HasSuffix(text, " error=deep: pq: could not open file (58P01) hint=Check the extension.") {
		t.Error(text)
	}
	if !strings.Contains(logged.String(), `event.hint="Check the extension."`) {
		t.Error(logged.String())
	}
	server.Hint = ""
	if text := e.String(); strings.Contains(text, "hint") {
		t.Error(text)
	}
}
