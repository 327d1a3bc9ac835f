//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fdwatch_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// watch returns a channel that gets a value for each event.
func watch(t *testing.T, c syscall.Conn) (*fdwatch.Watch, <-chan struct{}) {
	t.Helper()
	events := make(chan struct{}, 100)
	w, err := fdwatch.Start(raw(t, c), func() { events <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w, events
}

func await(t *testing.T, events <-chan struct{}) {
	t.Helper()
	select {
	case <-events:
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
}

// none checks that there was no event for c so far: an event of a connection
// that ends afterwards comes after it.
func none(t *testing.T, events <-chan struct{}) {
	t.Helper()
	c, s := pair(t)
	_, end := watch(t, c)
	s.Close()
	await(t, end)
	select {
	case <-events:
		t.Error("an event")
	default:
	}
}

func TestEndIsAnEvent(t *testing.T) {
	for name, end := range map[string]func(s *net.TCPConn){
		"FIN":        func(s *net.TCPConn) { s.Close() },
		"RST":        func(s *net.TCPConn) { s.SetLinger(0); s.Close() },
		"half-close": func(s *net.TCPConn) { s.CloseWrite() },
		"last words": func(s *net.TCPConn) { io.WriteString(s, "bye"); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, s := pair(t)
			_, events := watch(t, c)
			end(s)
			await(t, events)
		})
		t.Run(name+" before", func(t *testing.T) {
			c, s := pair(t)
			end(s)
			awaitReadable(t, c)
			_, events := watch(t, c)
			await(t, events)
		})
	}
}

func TestUnixSocket(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, events := watch(t, c.(*net.UnixConn))
	s.Close()
	await(t, events)
}

// Ordinary traffic wakes nobody.
func TestBytesAreNoEvent(t *testing.T) {
	c, s := pair(t)
	_, events := watch(t, c)
	buf := make([]byte, 1000)
	for range 100 {
		if _, err := s.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write(buf); err != nil { // and bytes that nobody reads
		t.Fatal(err)
	}
	awaitReadable(t, c)
	none(t, events)
}

func TestClosingIsNoEvent(t *testing.T) {
	c, s := pair(t)
	w, events := watch(t, c)
	w.Close()
	w.Close()
	s.Close()
	awaitReadable(t, c)
	none(t, events)

	c, _ = pair(t)
	w, events = watch(t, c)
	c.Close() // in the wrong order
	w.Close()
	none(t, events)
	if _, err := fdwatch.Start(raw(t, c), func() {}); err == nil {
		t.Error("a closed socket is watched")
	}
}

// A descriptor that is used again belongs to another socket.
func TestDescriptorIsUsedAgain(t *testing.T) {
	var wg sync.WaitGroup
	var wrong atomic.Int32
	for range 4 {
		wg.Go(func() {
			for range 250 {
				c, s := pair(t)
				w, err := fdwatch.Start(raw(t, c), func() {})
				if err != nil {
					t.Error(err)
					return
				}
				s.Close() // an event may be under way now
				w.Close()
				c.Close()
				c, s = pair(t)
				w, err = fdwatch.Start(raw(t, c), func() { wrong.Add(1) })
				if err != nil {
					t.Error(err)
					return
				}
				w.Close()
				c.Close()
				s.Close()
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d events of other sockets", n)
	}
}

// pollers returns how many goroutines wait for events.
func pollers() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), "fdwatch.(*epoll).wait(") + strings.Count(string(stacks), "fdwatch.(*kqueue).wait(")
}

func TestOnePollerWhileSomethingIsWatched(t *testing.T) {
	awaitNoPoller(t) // of the tests before
	var watches []*fdwatch.Watch
	for range 100 {
		c, _ := pair(t)
		w, err := fdwatch.Start(raw(t, c), func() {})
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	if n := pollers(); n != 1 {
		t.Errorf("%d pollers for 100 sockets", n)
	}
	for _, w := range watches {
		w.Close()
	}
	awaitNoPoller(t)
}

// A program that connects again and again has one poller.
func TestPollerStaysForAMoment(t *testing.T) {
	awaitNoPoller(t)
	for range 10 {
		c, s := pair(t)
		w, events := watch(t, c)
		s.Close()
		await(t, events)
		w.Close()
		if n := pollers(); n > 1 {
			t.Errorf("%d pollers", n)
		}
	}
	awaitNoPoller(t)
}

// awaitNoPoller waits until the poller has ended, as it does soon after the last
// watch was closed.
func awaitNoPoller(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); pollers() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the poller goes on")
		}
	}
}
