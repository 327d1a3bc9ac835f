package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/pgnotify/pgnotify/examples/live/internal/feed"
)

// A browser reads the stream as a real one does, but only when the story wants it to.
// It insists that no entry is missing and that none comes twice.
type browser struct {
	name          string
	url           string
	client        http.Client
	body          io.ReadCloser
	lines         *bufio.Scanner
	last          int64 // the newest entry that it has
	live, history int   // how many came as notifications, and how many from the table
	gaps          int
}

// open requests the stream, and says which entry is the newest that the browser has.
func (b *browser) open(ctx context.Context) error {
	b.client.Transport = &http.Transport{DialContext: dialSmall}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"events", nil)
	if err != nil {
		return err
	}
	if b.last > 0 {
		request.Header.Set("Last-Event-ID", strconv.FormatInt(b.last, 10))
	}
	answer, err := b.client.Do(request)
	if err != nil {
		return err
	}
	b.body, b.lines = answer.Body, bufio.NewScanner(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", b.name, answer.Status)
	}
	return nil
}

// dialSmall makes the kernel buffer little of what a slow browser does not read.
func dialSmall(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	}
	return conn, err
}

// Close leaves the stream.
func (b *browser) Close() error {
	err := b.body.Close()
	b.client.CloseIdleConnections()
	return err
}

// read reads n more entries, and counts where they came from.
func (b *browser) read(n int) error {
	b.live, b.history, b.gaps = 0, 0, 0
	for b.live+b.history < n {
		name, data, err := b.event()
		if err != nil {
			return fmt.Errorf("%s, after entry %d: %w", b.name, b.last, err)
		}
		switch name {
		case "gap":
			b.gaps++
		case "entry":
			if err := b.entry(data); err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
		}
	}
	return nil
}

func (b *browser) entry(data string) error {
	var e feed.Entry
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return err
	}
	if e.ID != b.last+1 {
		return fmt.Errorf("entry %d came after %d", e.ID, b.last)
	}
	b.last = e.ID
	if e.History {
		b.history++
	} else {
		b.live++
	}
	return nil
}

// event reads an event, which ends with an empty line.
func (b *browser) event() (name, data string, err error) {
	for b.lines.Scan() {
		field, value, _ := strings.Cut(b.lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			data = value
		case "":
			return name, data, nil
		}
	}
	if err := b.lines.Err(); err != nil {
		return "", "", err
	}
	return "", "", io.ErrUnexpectedEOF
}
