package transport_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// A slowCloser is a TLS connection whose farewell nobody takes.
type slowCloser struct {
	net.Conn
	socket *waitedFor
}

func (s slowCloser) Close() error {
	<-s.socket.closed
	return net.ErrClosed
}

// A waitedFor tells when it is closed.
type waitedFor struct {
	net.Conn
	closed chan struct{}
}

func (w *waitedFor) Close() error {
	close(w.closed)
	return w.Conn.Close()
}

func TestCloseIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		socket := &waitedFor{near, make(chan struct{})}
		conn := &transport.Conn{Conn: slowCloser{near, socket}, Socket: socket, Encrypted: true}
		start := time.Now()
		_ = conn.Close()
		if d := time.Since(start); d > 60*time.Millisecond {
			t.Errorf("Close took %v", d)
		}
	})
}
