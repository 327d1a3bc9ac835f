package fdwatch

import (
	"errors"
	"sync"
	"syscall"
	"time"
)

// ErrNotSupported is the error of Start on systems without a poller.
var ErrNotSupported = errors.New("fdwatch: not implemented on this system")

// A Watch is a socket being watched. It does not own the socket.
type Watch struct {
	id     uint64
	socket syscall.RawConn
	look   func()
}

// A backend is the system's poller. All methods but wait are called under the
// lock of the registry.
type backend interface {
	// add watches a descriptor. Its events carry the id, which is never used again. A
	// condition that already holds is an event.
	add(fd uintptr, id uint64) error

	// remove stops watching a descriptor, which is still open.
	remove(fd uintptr)

	// wait calls event for each event until close is called.
	wait(event func(id uint64))

	// close ends wait, which frees the backend's resources.
	close()
}

// linger is how long the poller stays when nothing is watched any more, so that a
// program that connects again and again does not start one each time.
const linger = 100 * time.Millisecond

// registry holds the process's poller and what it watches.
var registry struct {
	mu      sync.Mutex // guards the fields below
	backend backend    // nil while there is no poller
	watches map[uint64]*Watch
	lastID  uint64

	ending    bool      // endPoller will be called
	idleSince time.Time // when the last watch was closed
}

// Start calls look when the peer has closed the connection or shut down its sending
// side, when the connection has failed, and perhaps at other times: look must find out
// by reading. It runs on the poller's goroutine, must not block, and must not call into
// this package. Events before Start count.
//
// Close must be called before the socket is closed, or its memory is not freed.
func Start(socket syscall.RawConn, look func()) (_ *Watch, err error) {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if registry.backend == nil {
		if err := startPoller(); err != nil {
			return nil, err
		}
	}
	registry.lastID++
	w := &Watch{id: registry.lastID, socket: socket, look: look}
	registry.watches[w.id] = w
	if e := socket.Control(func(fd uintptr) { err = registry.backend.add(fd, w.id) }); e != nil {
		err = e
	}
	if err != nil {
		w.removeLocked()
		return nil, err
	}
	return w, nil
}

func startPoller() error {
	b, err := newBackend()
	if err != nil {
		return err
	}
	registry.backend = b
	registry.watches = make(map[uint64]*Watch)
	go b.wait(event) // ends with the poller
	return nil
}

// idleLocked makes the poller end soon after its last watch. It starts few timers,
// because each may wake a thread.
func idleLocked() {
	registry.idleSince = time.Now()
	if !registry.ending {
		registry.ending = true
		time.AfterFunc(linger, endPoller)
	}
}

// endPoller ends the poller, unless something is watched again or was until just now.
func endPoller() {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	registry.ending = false
	if len(registry.watches) > 0 {
		return
	}
	if rest := linger - time.Since(registry.idleSince); rest > 0 {
		registry.ending = true
		time.AfterFunc(rest, endPoller)
		return
	}
	registry.backend.close()
	registry.backend, registry.watches = nil, nil
}

// event runs on the poller's goroutine. If an id is unknown, its socket was closed, and
// its descriptor may belong to somebody else by now.
func event(id uint64) {
	registry.mu.Lock()
	w := registry.watches[id]
	registry.mu.Unlock()
	if w != nil {
		w.look()
	}
}

// Close ends the watch. A call of look that has begun may still be running. Close may
// be called more than once, and after the socket was closed.
func (w *Watch) Close() {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if registry.watches[w.id] != w {
		return
	}
	_ = w.socket.Control(registry.backend.remove) // a closed socket is forgotten by the system
	w.removeLocked()
}

// removeLocked forgets the watch.
func (w *Watch) removeLocked() {
	delete(registry.watches, w.id)
	if len(registry.watches) == 0 {
		idleLocked()
	}
}
