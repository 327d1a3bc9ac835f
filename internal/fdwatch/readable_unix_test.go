//go:build unix

package fdwatch_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func raw(t *testing.T, c syscall.Conn) syscall.RawConn {
	t.Helper()
	socket, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// awaitReadable gives the system time to deliver.
func awaitReadable(t *testing.T, c *net.TCPConn) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !fdwatch.Readable(raw(t, c)); {
		if time.Now().After(deadline) {
			t.Fatal("not readable")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSilentSocketIsNotReadable(t *testing.T) {
	t.Parallel()
	c, _ := pair(t)
	if fdwatch.Readable(raw(t, c)) {
		t.Error("readable, but nothing was sent")
	}
}

func TestSocketWithBytesIsReadable(t *testing.T) {
	t.Parallel()
	c, s := pair(t)
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	awaitReadable(t, c)
	var b [2]byte
	if n, err := c.Read(b[:]); n != 1 || err != nil {
		t.Errorf("looking took the byte: %d, %v", n, err)
	}
	if fdwatch.Readable(raw(t, c)) {
		t.Error("readable, but everything was read")
	}
}

func TestEndedSocketIsReadable(t *testing.T) {
	t.Parallel()
	c, s := pair(t)
	s.Close()
	awaitReadable(t, c)
}

func TestClosedSocketIsNotReadable(t *testing.T) {
	t.Parallel()
	c, s := pair(t)
	socket := raw(t, c)
	s.Close()
	c.Close()
	if fdwatch.Readable(socket) {
		t.Error("readable, but closed")
	}
}
