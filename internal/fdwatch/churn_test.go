//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fdwatch_test

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// D6: sockets come and go, with their ends under way, while others stay: no event
// for one that stays, and each end of one that is still watched is an event.
func TestOthersComeAndGo(t *testing.T) {
	var events atomic.Int32
	type staying struct {
		client, server *net.TCPConn
		ended          <-chan struct{}
	}
	var stay []staying
	for range 20 {
		c, s := pair(t)
		ended := make(chan struct{}, 100)
		w, err := fdwatch.Start(raw(t, c), func() { events.Add(1); ended <- struct{}{} })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		stay = append(stay, staying{c, s, ended})
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				c, s := pair(t)
				_, ended := watch(t, c)
				if i%2 == 0 {
					_ = s.SetLinger(0)
				}
				s.Close()
				await(t, ended)
				c.Close() // in the wrong order; watch ends the watch with the test
			}
		})
	}
	wg.Wait()
	if n := events.Load(); n != 0 {
		t.Errorf("%d events for sockets that stay", n)
	}
	for _, s := range stay {
		s.server.Close()
		await(t, s.ended)
	}
}

// An event tells nothing twice of an end that nobody reads, and what had come
// before it is still there to be read.
func TestEndIsToldOnce(t *testing.T) {
	c, s := pair(t)
	_, events := watch(t, c)
	if _, err := io.WriteString(s, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(t, events)
	none(t, events)
	if words, err := io.ReadAll(c); string(words) != "last words" || err != nil {
		t.Errorf("read %q, %v", words, err)
	}
	none(t, events)
}

// Start and Close from many goroutines, with the poller ending and beginning
// again and again, lose no event.
func TestStartAndCloseInARace(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				c, s := pair(t)
				ended := make(chan struct{}, 10)
				w, err := fdwatch.Start(raw(t, c), func() { ended <- struct{}{} })
				if err != nil {
					t.Error(err)
					return
				}
				var ends sync.WaitGroup
				ends.Go(func() { s.Close() })
				ends.Go(runtime.Gosched)
				ends.Wait()
				await(t, ended)
				for range 3 {
					ends.Go(w.Close)
				}
				ends.Wait()
				c.Close()
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(10 * time.Second); pollers() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the poller goes on")
		}
	}
}

// A watch may be closed while its look is under way.
func TestLookMayBeEndedMeanwhile(t *testing.T) {
	c, s := pair(t)
	began, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w, err := fdwatch.Start(raw(t, c), func() {
		close(began)
		<-goOn
		close(done)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	await(t, began)
	w.Close() // does not wait for the look
	c.Close()
	close(goOn)
	await(t, done)
	c, s = pair(t) // with the same descriptor
	_, events := watch(t, c)
	none(t, events)
	s.Close()
	await(t, events)
}
