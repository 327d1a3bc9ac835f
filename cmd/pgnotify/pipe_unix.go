//go:build unix

package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ignoreSIGPIPE makes a write that nobody reads fail, so that the session is ended in
// order.
func ignoreSIGPIPE() { signal.Ignore(syscall.SIGPIPE) }

// isClosedPipe reports whether a write failed because nobody reads any more.
func isClosedPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

// watchReader calls gone, once, when w is a pipe that nobody reads any more. Otherwise
// "pgnotify listen jobs | head -1" would notice only at the second notification. stop
// ends the watch, and waits for that.
func watchReader(w io.Writer, gone func(error)) (stop func()) {
	f, ok := w.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return func() {}
	}
	stopped, stopping, err := os.Pipe()
	if err != nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() { // ends by stop
		defer close(done)
		if err := awaitHangup(f, stopped); err != nil {
			gone(&outputError{err})
		}
	}()
	return func() {
		stopping.Close()
		<-done
		stopped.Close()
	}
}

// awaitHangup waits until nobody reads f, and then returns EPIPE, or until the other
// end of stopped is closed.
func awaitHangup(f, stopped *os.File) (err error) {
	a, errA := f.SyscallConn()
	b, errB := stopped.SyscallConn()
	if errA != nil || errB != nil {
		return nil
	}
	// Within Control a descriptor cannot be closed and reused for another file.
	_ = a.Control(func(fd uintptr) {
		_ = b.Control(func(stop uintptr) { err = pollHangup(int32(fd), int32(stop)) })
	})
	return err
}

func pollHangup(fd, stop int32) error {
	const hangup = unix.POLLERR | unix.POLLHUP // told without being asked for
	files := []unix.PollFd{{Fd: fd}, {Fd: stop, Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(files, -1)
		switch {
		case err == unix.EINTR:
		case err != nil, files[1].Revents != 0:
			return nil
		case files[0].Revents&hangup != 0:
			return syscall.EPIPE
		}
	}
}
