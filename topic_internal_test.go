package pgnotify

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// A nowhere is a connector without a server.
type nowhere struct{}

func (nowhere) Connect(context.Context) (driver.Conn, error) { return nil, errors.New("no way") }
func (nowhere) Driver() driver.Driver                        { return &Driver{} }

// While there is no session, channels of subscribers who give up are forgotten: an
// outage may last, and each subscriber may have a channel of its own.
func TestChannelsAreForgottenWithoutASession(t *testing.T) {
	t.Parallel()
	l, err := NewListener(nowhere{}, &ListenerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 10 {
		ctx, stop := context.WithTimeout(context.Background(), time.Millisecond)
		_, err := l.Subscribe(ctx, fmt.Sprint("a", i), "b")
		stop()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.topics) != 0 || len(l.changed) != 0 {
		t.Errorf("%d topics, %d to be looked at", len(l.topics), len(l.changed))
	}
}
