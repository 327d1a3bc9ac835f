package wire_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// manyRows are rows of a megabyte and more, some of them in pieces.
func manyRows() []frame {
	list := []frame{rowDesc}
	for range 100 {
		list = append(list, row("1"), row(strings.Repeat("x", 30_000)))
	}
	return append(list, bigRow, row(strings.Repeat("x", 3<<20)), tag("SELECT 202"), idle)
}

// Much that is dropped is announced once for each answer, before its end.
func TestManyRowsDropped(t *testing.T) {
	t.Parallel()
	heard := newEvents()
	conn := wire.NewConn(newScript(whole, join(greeting()...), join(manyRows()...), join(manyRows()...), join(manyRows()...)), heard)
	defer conn.Close()
	cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
	mustAsk(t, cl, startupPacket, join(greeting()...))
	for n := 1; n <= 2; n++ {
		conn.BeginOperation()
		conn.DropRows()
		mustAsk(t, cl, query("SELECT"), join(rowDesc, tag("SELECT 202"), idle))
		if got := heard.snapshot(); len(got) != n || got[n-1] != "excess" {
			t.Errorf("after answer %d: %q", n, got)
		}
	}
	conn.BeginOperation()
	mustAsk(t, cl, query("SELECT"), join(manyRows()...))
	if got := heard.snapshot(); len(got) != 2 {
		t.Errorf("of rows that were not dropped: %q", got)
	}
}

// The rows of which lib/pq has had a part go on to their end.
func TestRowsDroppedInTheMidst(t *testing.T) {
	t.Parallel()
	rows := manyRows()
	for _, first := range []int{1, len(rowDesc), len(rowDesc) + 3, len(rowDesc) + len(row("1")) + 20_000, 100_000} {
		for _, active := range []bool{false, true} {
			conn := wire.NewConn(newScript(whole, join(greeting()...), join(rows...), join(rowDesc, tag("SELECT 0"), idle)), newEvents())
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			mustAsk(t, cl, startupPacket, join(greeting()...))
			if active && !conn.Activate() {
				t.Fatal("not active")
			}
			conn.BeginOperation()
			if _, err := conn.Write(query("SELECT")); err != nil {
				t.Fatal(err)
			}
			got, err := cl.readAnswer(first)
			if err != nil {
				t.Fatal(err)
			}
			conn.DropRows()
			for conn.Unread() && err == nil {
				var more []byte
				more, err = cl.readAnswer(1)
				got = append(got, more...)
			}
			left := slices.Clone(got)
			for _, f := range rows { // what came is the answer without some of its rows
				if len(left) >= len(f) && string(left[:len(f)]) == string(f) {
					left = left[len(f):]
				} else if f[0] != 'D' {
					t.Fatalf("after %d bytes: no %q where %q is", first, f, shown(left))
				}
			}
			if err != nil || len(left) > 0 || len(got) > len(join(rows...))/2 {
				t.Errorf("after %d bytes: %d bytes in all, %q left, %v", first, len(got), shown(left), err)
			}
			conn.BeginOperation()
			mustAsk(t, cl, query("SELECT"), join(rowDesc, tag("SELECT 0"), idle))
			conn.Close()
		}
	}
}

// A broken row is one also if nobody wants it.
func TestBrokenRowDropped(t *testing.T) {
	t.Parallel()
	for _, bad := range []frame{
		newFrame('D', "\x00\x02", uint32s(1), "x"),
		newFrame('D', "\x00\x01", uint32s(2), "x"),
		newFrame('D', "\x00\x01", uint32s(1), strings.Repeat("x", 100_000)),
	} {
		conn := wire.NewConn(newScript(whole, join(greeting()...), join(rowDesc, row("1"), bad, tag("SELECT 2"), idle)), newEvents())
		cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
		mustAsk(t, cl, startupPacket, join(greeting()...))
		conn.DropRows()
		if _, err := conn.Write(query("SELECT")); err != nil {
			t.Fatal(err)
		}
		if got, err := cl.readAnswer(1 << 20); err == nil || !strings.HasPrefix(err.Error(), "protocol error") {
			t.Errorf("%q: %q, %v", shown(bad), shown(got), err)
		}
		conn.Close()
	}
}
