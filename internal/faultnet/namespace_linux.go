package faultnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// A namespace is a network without a name. It exists while it, or a socket made
// in it, is open.
type namespace struct{ file *os.File }

func newNamespace() (*namespace, error) {
	var file *os.File
	err := elsewhere(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		file, err = ofThread()
		return err
	})
	return &namespace{file}, err
}

// do runs f in the namespace. Sockets that f makes belong there, wherever they are
// used. f must make them on the goroutine on which it is called.
func (n *namespace) do(f func() error) error {
	return elsewhere(func() error {
		if err := enter(n.file); err != nil {
			return err
		}
		return f()
	})
}

// elsewhere runs f on a thread whose namespace f may change.
func elsewhere(f func() error) error {
	done := make(chan error)
	go func() { // ends with f, which is waited for
		runtime.LockOSThread()
		home, err := ofThread()
		if err == nil {
			err = f()
			if enter(home) == nil { // otherwise the thread ends with the goroutine
				runtime.UnlockOSThread()
			}
			home.Close()
		}
		done <- err
	}()
	return <-done
}

// ofThread opens the namespace of this thread.
func ofThread() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// enter moves this thread.
func enter(file *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(file.Fd()), unix.CLONE_NEWNET))
}

// device is the name of the one device that each namespace has.
const device = "cable"

// plugIn makes a TUN device with an address in this thread's namespace. Packets sent
// over it are read from the file, and packets written to the file arrive on it.
func plugIn(address netip.Addr) (*os.File, error) {
	fd, err := openTUN("/dev/net/tun")
	if errors.Is(err, fs.ErrNotExist) { // as in many containers
		fd, err = openOwnTUN()
	}
	if err != nil {
		return nil, err
	}
	if err := setUp(fd, address); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

func openTUN(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// openOwnTUN opens the device through a device file of our own, removed at once.
func openOwnTUN() (fd int, err error) {
	folder, err := os.MkdirTemp("", "faultnet-")
	if err != nil {
		return -1, err
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "tun")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return -1, &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return openTUN(path)
}

func setUp(fd int, address netip.Addr) error {
	if err := control(fd, unix.TUNSETIFF, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return nil
	}); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	ip4 := func(a netip.Addr) func(*unix.Ifreq) error {
		return func(r *unix.Ifreq) error { return r.SetInet4Addr(a.AsSlice()) }
	}
	return withSocket(func(fd int) error {
		if err := control(fd, unix.SIOCSIFADDR, ip4(address)); err != nil {
			return fmt.Errorf("SIOCSIFADDR: %w", err)
		}
		if err := control(fd, unix.SIOCSIFNETMASK, ip4(netip.MustParseAddr("255.255.255.0"))); err != nil {
			return fmt.Errorf("SIOCSIFNETMASK: %w", err)
		}
		return setState(fd, true)
	})
}

// setState turns the device of this thread's namespace on or off.
func setState(fd int, up bool) error {
	err := control(fd, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		if up {
			r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	return nil
}

// control makes an ioctl request about the device.
func control(fd int, request uint, fill func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := fill(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, request, r)
}

// withSocket calls f with a socket of this thread's namespace.
func withSocket(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return f(fd)
}
