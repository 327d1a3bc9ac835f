package faultnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/faultnet"
)

// echoServer returns the address of a server that says what it hears.
func echoServer(t *testing.T) string {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the link
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, l *faultnet.Link) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := l.DialContext(ctx, "tcp", "db.example:5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func wantEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	wantRead(t, c, text)
}

func wantRead(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v", got, err)
	}
}

// wantSilence checks that nothing comes and nothing ends.
func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

// What was lost comes once the link is repaired, by the system's own repetition;
// the other links are not concerned.
func TestCutAndRepair(t *testing.T) {
	t.Parallel()
	server := echoServer(t)
	l, other := faultnet.Start(t, "unix", server), faultnet.Start(t, "unix", server)
	c, beside := dial(t, l), dial(t, other)
	wantEcho(t, c, "before")
	l.Cut()
	if _, err := io.WriteString(c, "meanwhile"); err != nil {
		t.Fatal(err)
	}
	wantSilence(t, c)
	wantEcho(t, beside, "beside")
	l.Repair()
	wantRead(t, c, "meanwhile")
	wantEcho(t, dial(t, l), "after")
}

func TestCutAfter(t *testing.T) {
	t.Parallel()
	l := faultnet.Start(t, "unix", echoServer(t))
	c := dial(t, l)
	cut := l.CutAfter(4000)
	wantEcho(t, c, "little")
	select {
	case <-cut:
		t.Fatal("cut too early")
	default:
	}
	if _, err := c.Write(make([]byte, 8000)); err != nil {
		t.Fatal(err)
	}
	<-cut
	l.Repair()
	wantRead(t, c, string(make([]byte, 8000)))
}

func TestUnplug(t *testing.T) {
	t.Parallel()
	l := faultnet.Start(t, "unix", echoServer(t))
	c := dial(t, l)
	wantEcho(t, c, "before")
	l.Unplug(t)
	wantSilence(t, c)
	if _, err := l.DialContext(context.Background(), "tcp", ""); err == nil {
		t.Error("there is still a way")
	}
}

// A side that closes is seen on the other.
func TestClose(t *testing.T) {
	t.Parallel()
	l := faultnet.Start(t, "unix", filepath.Join(t.TempDir(), "nobody"))
	c := dial(t, l)
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v", n, err)
	}
}
