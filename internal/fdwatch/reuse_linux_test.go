package fdwatch_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// A gate is a look that holds the poller up until it is opened.
type gate struct{ began, open chan struct{} }

func watchGate(t *testing.T, c syscall.Conn) gate {
	t.Helper()
	g := gate{make(chan struct{}), make(chan struct{})}
	w, err := fdwatch.Start(raw(t, c), func() {
		close(g.began)
		<-g.open
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return g
}

func descriptor(t *testing.T, c syscall.Conn) (fd uintptr) {
	t.Helper()
	if err := raw(t, c).Control(func(d uintptr) { fd = d }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// D6: the poller has fetched the event of a socket, which is closed before it gets
// to that; another one has its descriptor by then, and is not told.
func TestFetchedEventOfAUsedDescriptor(t *testing.T) {
	a, aServer := pair(t)
	b, bServer := pair(t)
	c, cServer := pair(t)
	first, second := watchGate(t, a), watchGate(t, b)
	closing, old := watch(t, c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	aServer.Close()
	await(t, first.began)
	bServer.Close() // both events are fetched when the first look is done
	cServer.Close()
	awaitReadable(t, b)
	awaitReadable(t, c)
	close(first.open)
	await(t, second.began)

	fd := descriptor(t, c)
	closing.Close()
	c.Close()
	fresh := dialAs(t, l.Addr().String(), fd)
	_, events := watch(t, fresh)
	close(second.open)
	none(t, events)
	if len(old) != 0 {
		t.Error("an event of a watch that was closed")
	}
}

// dialAs returns a connection with a descriptor that is free, as others may be.
func dialAs(t *testing.T, address string, fd uintptr) *net.TCPConn {
	t.Helper()
	for range 20 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if descriptor(t, c.(*net.TCPConn)) == fd {
			return c.(*net.TCPConn)
		}
	}
	t.Fatalf("nothing has the descriptor %d", fd)
	return nil
}
