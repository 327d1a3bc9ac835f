package states_test

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// slack is how much longer than its context a call may take, on a machine with much to
// do.
const slack = 20 * time.Second

var dump sync.Once

// watch expects that the caller calls done in time, at most the given time and some
// slack later. Otherwise it prints all goroutines, and ends the server's sessions, which
// ought to wake whoever hangs. If that does not help either, it ends the program.
func (w *world) watch(call string, limit time.Duration) (done func()) {
	limit += 2*w.config.CancelTimeout + slack
	hangs := time.AfterFunc(limit, func() {
		w.fail("%s has not returned after %v", call, limit)
		dump.Do(func() {
			stacks := make([]byte, 8<<20)
			os.Stderr.Write(stacks[:runtime.Stack(stacks, true)])
		})
		w.server.end()
	})
	hopeless := time.AfterFunc(limit+slack, func() { panic(call + " hangs, even without a server") })
	return func() {
		hangs.Stop()
		hopeless.Stop()
	}
}
