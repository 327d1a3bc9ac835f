package pgserver

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupts closes a server on SIGINT or SIGTERM and then lets the signal have
// its usual effect.
type interrupts struct {
	signals chan os.Signal
	settled chan *Server // what Start came to, sent once; nil for no server
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once // closes quit
}

// catchInterrupts begins to watch. On a signal it calls cancel, so that a Start
// under way ends soon. The caller must call settle once, then stop.
func catchInterrupts(cancel context.CancelFunc) *interrupts {
	in := &interrupts{
		signals: make(chan os.Signal, 1),
		settled: make(chan *Server, 1),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if !signal.Ignored(sig) { // as under nohup: stay deaf to it
			signal.Notify(in.signals, sig)
		}
	}
	go in.run(cancel) // owned by in, ended by stop or a signal
	return in
}

// settle hands over what Start came to.
func (in *interrupts) settle(s *Server) { in.settled <- s }

// stop ends the goroutine and waits for it. It may be called more than once.
func (in *interrupts) stop() {
	in.once.Do(func() { close(in.quit) })
	<-in.done
}

func (in *interrupts) run(cancel context.CancelFunc) {
	defer close(in.done)
	select {
	case <-in.quit:
		in.letGo(nil)
	case sig := <-in.signals:
		cancel()
		if s := <-in.settled; s != nil {
			s.shutdown()
		}
		in.letGo(sig)
	}
}

// letGo stops watching, and raises sig or else a signal that was caught but not
// taken yet. While another server still watches, raising has no more effect than
// telling it again; the last one to let go ends the program.
func (in *interrupts) letGo(sig os.Signal) {
	signal.Stop(in.signals)
	if sig == nil {
		select {
		case sig = <-in.signals:
		default:
			return
		}
	}
	raise(sig)
}
