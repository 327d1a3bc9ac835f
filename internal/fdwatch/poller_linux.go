package fdwatch

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// epoll is the backend of Linux.
type epoll struct {
	fd   int
	file *os.File // fd, known to Go's poller
}

func newBackend() (backend, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for NewFile to have Go's poller wait on it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	if err := file.SetReadDeadline(time.Time{}); err != nil { // Go's poller did not take it
		file.Close()
		return nil, err
	}
	return &epoll{fd: fd, file: file}, nil
}

// add asks only for the end; errors and hang-ups are always reported.
func (p *epoll) add(fd uintptr, id uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(id), Pad: int32(id >> 32)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(fd), &ev))
}

func (p *epoll) remove(fd uintptr) {
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, int(fd), nil)
}

func (p *epoll) close() { _ = p.file.Close() }

func (p *epoll) wait(event func(id uint64)) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	var (
		events [128]unix.EpollEvent
		n      int
	)
	for {
		err := raw.Read(func(fd uintptr) (done bool) {
			n, err = epollWait(int(fd), events[:])
			return n != 0
		})
		if err != nil || n < 0 {
			return
		}
		for _, ev := range events[:n] {
			event(uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32)
		}
	}
}

// epollWait fetches events without blocking.
func epollWait(fd int, events []unix.EpollEvent) (n int, err error) {
	for {
		n, err = unix.EpollWait(fd, events, 0)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
