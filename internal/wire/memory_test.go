package wire_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// O6: the channel names that a session remembers are bounded in bytes too. Not parallel,
// because it measures the memory of the process.
func TestMemoryOfChannelNames(t *testing.T) {
	const count, size, bound = 1000, 60_000, 1 << 20
	s := wire.NewStream(nobody{}, true)
	before := heap()
	for i := range count {
		if err := s.Discard(note(fmt.Sprintf("%0*d", size, i), "")); err != nil {
			t.Fatal(err)
		}
	}
	if used := heap() - before; used > bound {
		t.Errorf("%d names of %d bytes hold %d bytes, above %d", count, size, used, bound)
	}
	runtime.KeepAlive(s)
}

// heap returns the size of what is reachable.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
