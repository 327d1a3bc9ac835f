package faultnet

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The ends have addresses reserved for documentation, which nobody uses.
var (
	nearAddress = netip.MustParseAddr("192.0.2.1")
	farAddress  = netip.MustParseAddr("192.0.2.2")
)

// A Link is a path to a server that can be broken. Its methods are safe for concurrent
// use.
type Link struct {
	near, far       *namespace
	nearTUN, farTUN *os.File
	relay           *relay
	tasks           sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	cut     bool
	passing int           // bytes that may still pass; not counted while onCut is nil
	onCut   chan struct{} // closed when they have passed
}

// Start makes a link to a server. The link ends with the test. If the system does not
// allow it, the test is skipped; with CI=true and as root it fails.
func Start(t testing.TB, network, server string) *Link {
	t.Helper()
	l := &Link{}
	t.Cleanup(l.close)
	err := l.start(network, server)
	switch {
	case err == nil:
	case isRefusal(err) && (os.Getenv("CI") != "true" || os.Geteuid() != 0):
		t.Skipf("no network of the test's own, which needs root and a TUN device: %v", err)
	default:
		t.Fatalf("no network of the test's own: %v", err)
	}
	return l
}

// isRefusal reports whether something is not allowed or does not exist.
func isRefusal(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

func (l *Link) start(network, server string) (err error) {
	if l.near, l.nearTUN, err = newEnd(nearAddress); err != nil {
		return err
	}
	if l.far, l.farTUN, err = newEnd(farAddress); err != nil {
		return err
	}
	if l.relay, err = startRelay(l.far, network, server); err != nil {
		return err
	}
	l.tasks.Go(func() { carry(l.nearTUN, l.farTUN, l.leaves) }) // both end with the devices; joined by close
	l.tasks.Go(func() { carry(l.farTUN, l.nearTUN, l.returns) })
	return nil
}

func newEnd(address netip.Addr) (n *namespace, tun *os.File, err error) {
	if n, err = newNamespace(); err != nil {
		return nil, nil, err
	}
	err = n.do(func() error {
		tun, err = plugIn(address)
		return err
	})
	return n, tun, err
}

// carry is one direction of the cable.
func carry(from, to *os.File, passes func(bytes int) bool) {
	packet := make([]byte, 1<<16)
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		if passes(n) {
			_, _ = to.Write(packet[:n]) // lost if the device is off
		}
	}
}

// leaves reports whether a packet from the near end passes.
func (l *Link) leaves(bytes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onCut != nil {
		if l.passing -= bytes; l.passing < 0 {
			close(l.onCut)
			l.onCut, l.cut = nil, true
		}
	}
	return !l.cut
}

// returns reports whether a packet from the far end passes.
func (l *Link) returns(int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cut
}

// DialContext connects to the server, whatever the address.
func (l *Link) DialContext(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	err = l.near.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", l.relay.address())
		return err
	})
	return conn, err
}

// Cut drops every packet from now on, in both directions.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
}

// CutAfter cuts the link once that many more bytes, headers included, have left the
// near end. It then closes the channel.
func (l *Link) CutAfter(bytes int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passing, l.onCut = bytes, make(chan struct{})
	return l.onCut
}

// Repair undoes Cut and CutAfter.
func (l *Link) Repair() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.onCut = false, nil
}

// Unplug turns the near end's device off, so that no route leads to the server.
func (l *Link) Unplug(t testing.TB) {
	t.Helper()
	err := l.near.do(func() error {
		return withSocket(func(fd int) error { return setState(fd, false) })
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *Link) close() {
	for _, tun := range []*os.File{l.nearTUN, l.farTUN} {
		if tun != nil {
			tun.Close()
		}
	}
	l.tasks.Wait()
	if l.relay != nil {
		l.relay.close()
	}
	for _, n := range []*namespace{l.near, l.far} {
		if n != nil && n.file != nil {
			n.file.Close()
		}
	}
}
