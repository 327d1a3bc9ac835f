package wire_test

import (
	"io"
	"testing"
)

// lib/pq writes a Close and its Sync apart. They go out together: a pooler that
// answers the Close itself may do so at once, when nothing is asked yet.
func TestCloseGoesWithItsSync(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		cl, server := session(t, active, nobody{})
		conn := cl.conn
		closing, sync := newFrame('C', "S1\x00"), newFrame('S')
		for range 2 {
			conn.BeginOperation()
			if n, err := conn.Write(closing); n != len(closing) || err != nil {
				t.Fatal(n, err)
			}
			if n := conn.Sent(); n != 0 {
				t.Errorf("%d sent", n)
			}
			if n, err := conn.Write(sync); n != len(sync) || err != nil {
				t.Fatal(n, err)
			}
			got := make([]byte, conn.Sent())
			if n, err := server.Read(got); n != len(got) || err != nil { // in one piece
				t.Fatal(n, err)
			}
			if name := got[len("C....S") : len(got)-len("1\x00")-len(sync)]; len(name) != 18 || string(got[len(got)-len("1\x00")-len(sync):]) != "1\x00"+string(sync) {
				t.Errorf("%q", got)
			}
			closeComplete := newFrame('3')
			send(t, server, closeComplete)
			if _, err := io.ReadFull(conn, make([]byte, len(closeComplete))); err != nil {
				t.Fatal(err)
			}
			send(t, server, idle)
			if _, err := cl.readAnswer(len(idle)); err != nil {
				t.Fatal(err)
			}
			if !conn.Clean() {
				t.Error("not clean")
			}
		}
	})
}
