//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package fdwatch

import (
	"math"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// kqueue is the backend of macOS and the BSDs.
type kqueue struct {
	fd   int
	stop [2]int // a pipe: closing its writing end ends wait

	mu  sync.Mutex // guards ids
	ids map[uint64]uint64
}

func newBackend() (backend, error) {
	fd, err := unix.Kqueue()
	if err != nil {
		return nil, os.NewSyscallError("kqueue", err)
	}
	unix.CloseOnExec(fd)
	p := &kqueue{fd: fd, ids: make(map[uint64]uint64)}
	if err := p.openPipe(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

func (p *kqueue) openPipe() error {
	syscall.ForkLock.RLock() // macOS has no pipe2: no child may be made in between
	err := unix.Pipe(p.stop[:])
	if err == nil {
		unix.CloseOnExec(p.stop[0])
		unix.CloseOnExec(p.stop[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return os.NewSyscallError("pipe", err)
	}
	if err := p.change(p.stop[0], unix.EV_ADD, 0); err != nil {
		unix.Close(p.stop[0])
		unix.Close(p.stop[1])
		return err
	}
	return nil
}

// change adds or deletes the filter for a descriptor. With NOTE_LOWAT it stays silent
// until that many bytes can be read, but not about the end.
func (p *kqueue) change(fd int, flags int, notes uint32) error {
	var k unix.Kevent_t
	unix.SetKevent(&k, fd, unix.EVFILT_READ, flags)
	if notes != 0 {
		k.Fflags, k.Data = notes, math.MaxInt32
	}
	for {
		_, err := unix.Kevent(p.fd, []unix.Kevent_t{k}, nil, nil)
		if err != syscall.EINTR {
			return os.NewSyscallError("kevent", err)
		}
	}
}

func (p *kqueue) add(fd uintptr, id uint64) error {
	p.mu.Lock()
	p.ids[uint64(fd)] = id
	p.mu.Unlock()
	return p.change(int(fd), unix.EV_ADD|unix.EV_CLEAR, unix.NOTE_LOWAT)
}

func (p *kqueue) remove(fd uintptr) {
	_ = p.change(int(fd), unix.EV_DELETE, 0)
	p.mu.Lock()
	delete(p.ids, uint64(fd))
	p.mu.Unlock()
}

func (p *kqueue) close() { unix.Close(p.stop[1]) }

// wait sits in kevent on a thread of its own. An event fetched before its descriptor
// was closed and reused is attributed to the new user, which costs one look.
func (p *kqueue) wait(event func(id uint64)) {
	defer unix.Close(p.fd)
	defer unix.Close(p.stop[0])
	events := make([]unix.Kevent_t, 128)
	for {
		n, err := unix.Kevent(p.fd, nil, events, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for i := range events[:n] {
			fd := uint64(events[i].Ident)
			if fd == uint64(p.stop[0]) {
				return
			}
			if events[i].Flags&(unix.EV_EOF|unix.EV_ERROR) == 0 {
				continue // more bytes than the socket's buffer should hold
			}
			p.mu.Lock()
			id, ok := p.ids[fd]
			p.mu.Unlock()
			if ok {
				event(id)
			}
		}
	}
}
