//go:build unix

package fdwatch_test

import (
	"net"
	"testing"

	"github.com/pgnotify/pgnotify/internal/fdwatch"
)

// BenchmarkReadable is what the look at a socket costs a checkout.
func BenchmarkReadable(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	socket, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if fdwatch.Readable(socket) {
			b.Fatal("readable")
		}
	}
}
