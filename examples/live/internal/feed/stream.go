package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pgnotify/pgnotify"
)

const (
	// queueSize is how many entries may wait for a browser. A browser that falls
	// further behind gets a gap, and reads the entries from the table.
	queueSize = 64
	// patience is how long a browser may take no data before it is dropped.
	patience = 30 * time.Second
	// silence is the longest time without data. Without this limit nobody would notice
	// a browser whose network has fallen silent.
	silence = 10 * time.Second
)

// A stream sends entries to a browser, as server-sent events.
type stream struct {
	feed *Feed
	w    http.ResponseWriter
	out  *http.ResponseController
	last int64 // the id of the newest entry that was sent
}

// serveEvents sends entries until the browser goes, or the Listener is closed.
func (f *Feed) serveEvents(w http.ResponseWriter, r *http.Request) {
	// Before the history is read, so that nothing falls between the two.
	sub, err := f.listener.SubscribeConfig(r.Context(), pgnotify.SubscriptionConfig{
		Channels: []string{channel}, QueueSize: queueSize,
	})
	if err != nil {
		http.Error(w, "no word from the database", http.StatusServiceUnavailable)
		return
	}
	defer sub.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	s := &stream{feed: f, w: w, out: http.NewResponseController(w)}
	_ = s.run(r.Context(), sub, lastEventID(r)) // the browser reconnects
}

// lastEventID returns the id of the newest entry that the browser has, or 0. A browser
// sends the header by itself when it has lost its connection; the page sends the
// parameter when the browser has given up.
func lastEventID(r *http.Request) int64 {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.FormValue("after")
	}
	id, _ := strconv.ParseInt(text, 10, 64)
	return id
}

// run sends the entries of the table, and then new ones.
func (s *stream) run(ctx context.Context, sub *pgnotify.Subscription, last int64) (err error) {
	if s.last, err = begin(ctx, s.feed.db, last); err != nil {
		return err
	}
	if err := s.write("retry: 500\n\n"); err != nil { // ms until the browser reconnects
		return err
	}
	if err := s.history(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(silence)
	defer beat.Stop()
	for err == nil {
		select {
		case e, ok := <-sub.Events():
			switch {
			case !ok:
				return sub.Err()
			case e.Gap != nil:
				err = s.gap(ctx, e.Gap)
			default:
				err = s.heard(e.Notification)
			}
		case <-beat.C:
			err = s.write(":\n\n")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// heard sends the entry of a notification.
func (s *stream) heard(n pgnotify.Notification) error {
	e, err := parse([]byte(n.Payload))
	if err != nil {
		return nil // anybody may NOTIFY, not only the trigger
	}
	return s.entry(e)
}

// gap sends the missed entries from the table, and no entry twice.
func (s *stream) gap(ctx context.Context, gap *pgnotify.Gap) error {
	if err := s.event("gap", gap.Cause.String()); err != nil {
		return err
	}
	return s.history(ctx)
}

// history sends the entries of the table that have not been sent.
func (s *stream) history(ctx context.Context) error {
	for {
		entries, err := after(ctx, s.feed.db, s.last)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := s.entry(e); err != nil {
				return err
			}
		}
		if len(entries) < page {
			return nil
		}
	}
}

// entry sends an entry, unless it was sent before. Entries come in the order of their
// ids, both from the table and from the trigger.
func (s *stream) entry(e Entry) error {
	if e.ID <= s.last {
		return nil
	}
	if err := s.event(fmt.Sprintf("entry\nid: %d", e.ID), e); err != nil {
		return err
	}
	s.last = e.ID
	return nil
}

// event sends an event, whose data is JSON and so has no line breaks.
func (s *stream) event(name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, text))
}

func (s *stream) write(text string) error {
	if err := s.out.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.out.Flush()
}
