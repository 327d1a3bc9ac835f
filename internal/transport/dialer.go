package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Dialer opens sockets. The zero value is ready to use. It must not be changed
// after its first use, and is then safe for concurrent use.
type Dialer struct {
	// DialContext opens the sockets in place of a [net.Dialer]; it may be nil. It must
	// end when its context does. It is called with the network "tcp" or "unix" and with
	// unresolved names, so that a tunnel can resolve them at its far end. The route
	// that asked for the connection owns it. The connection need neither support
	// deadlines nor end a Read or Write when it is closed.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Left counts the calls of DialContext that have not ended although their contexts
	// have. If there are too many, no further ones are made. Copies of a Dialer share
	// it. nil: they are neither counted nor bounded.
	Left *atomic.Int32

	// KeepAlive says how an idle TCP connection is probed. Zero is on with the defaults
	// of package net (15 s, 15 s, 9 probes), and leaves a connection of DialContext as
	// it is. Enable false with a negative Idle is off. Any other value is set, and on a
	// connection of DialContext only if it is a *net.TCPConn.
	KeepAlive net.KeepAliveConfig

	// TCPUserTimeout bounds how long sent data may stay unacknowledged before the
	// kernel gives the connection up. Zero is the kernel's default. It is Linux's
	// TCP_USER_TIMEOUT, with a resolution of a millisecond. On other systems, and for
	// connections other than a *net.TCPConn, it is ignored, as in libpq. If it cannot
	// be set, the dial fails.
	TCPUserTimeout time.Duration

	// Shuffle randomises the order of a name's addresses: load_balance_hosts=random.
	Shuffle bool
}

// Routes returns the ways to reach e, in the order to try: for each address of
// its host, each encryption that p allows, in sequence. There is one address if
// Hostaddr is given, the host is an IP address or a unix socket, or DialContext
// is set. Otherwise the name is looked up, and the addresses keep the resolver's
// order unless Shuffle is set.
//
// Nothing is dialled yet. The look-up ends with ctx. An error is an [*Error] of
// [PhaseLookup] or, for an endpoint that cannot be reached on this system, of
// [PhaseDial].
func (d *Dialer) Routes(ctx context.Context, e Endpoint, p *Policy) ([]Route, error) {
	addresses, err := d.addresses(ctx, e)
	if err != nil {
		return nil, err
	}
	encryptions := p.sequence(e)
	routes := make([]Route, 0, len(addresses)*len(encryptions))
	for _, address := range addresses {
		for i, encryption := range encryptions {
			routes = append(routes, Route{
				Address: address, Encryption: encryption, Fallback: i > 0,
				dialer: d, policy: p, endpoint: e,
			})
		}
	}
	return routes, nil
}

// addresses returns what to pass to dial for e.
func (d *Dialer) addresses(ctx context.Context, e Endpoint) (list []string, err error) {
	switch {
	case e.Unix():
		if strings.HasPrefix(e.Host, "@") && !abstractSockets() {
			return nil, newError(ctx, PhaseDial, e.String(),
				fmt.Errorf("there are no abstract sockets on %s", runtime.GOOS))
		}
		return []string{e.socketPath()}, nil
	case e.Hostaddr.IsValid():
		return []string{net.JoinHostPort(e.Hostaddr.String(), e.port())}, nil
	case d.DialContext != nil:
		return []string{net.JoinHostPort(e.Host, e.port())}, nil
	}
	ips, err := lookup(ctx, e.Host)
	if err != nil {
		return nil, newError(ctx, PhaseLookup, e.String(), err)
	}
	if d.Shuffle {
		rand.Shuffle(len(ips), func(i, j int) { ips[i], ips[j] = ips[j], ips[i] })
	}
	for _, ip := range ips {
		list = append(list, net.JoinHostPort(ip.String(), e.port()))
	}
	return list, nil
}

// abstractSockets reports whether package net can dial names that begin with @.
// Elsewhere it would take them for a relative path.
func abstractSockets() bool {
	switch runtime.GOOS {
	case "linux", "android", "windows":
		return true
	}
	return false
}

// lookup returns the addresses of host, each once, in the resolver's order. An
// IP address is its own, with its zone.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	if host == "" {
		return nil, errors.New("no host is given")
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	list := make([]netip.Addr, 0, len(found))
	for _, ip := range found {
		if ip = ip.Unmap(); !slices.Contains(list, ip) {
			list = append(list, ip)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("the name has no address")
	}
	return list, nil
}

// dial opens a socket to a resolved address and sets its options.
func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.dialCustom(ctx, network, address)
	}
	nd := net.Dialer{KeepAlive: -1} // only KeepAliveConfig counts
	if keepAlive, on := d.keepAlive(); on {
		nd.KeepAliveConfig = keepAlive
	}
	if d.TCPUserTimeout > 0 && network == "tcp" {
		// Before connect(2), so that it bounds the handshake of TCP too.
		nd.Control = func(_, _ string, raw syscall.RawConn) error {
			return setUserTimeout(raw, d.TCPUserTimeout)
		}
	}
	return nd.DialContext(ctx, network, address)
}

// dialCustom uses DialContext, and sets the options on the connection.
func (d *Dialer) dialCustom(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.callDialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if conn == nil {
		return nil, errors.New("DialContext returned neither a connection nor an error")
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := d.configure(tcp); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if !isSocket(conn) {
		conn = newForeignConn(conn)
	}
	return conn, nil
}

// configure sets the options that net.Dialer would have set. As there, only the
// user timeout, which has to be asked for, is worth an error.
func (d *Dialer) configure(tcp *net.TCPConn) error {
	if d.KeepAlive != (net.KeepAliveConfig{}) {
		if keepAlive, on := d.keepAlive(); on {
			_ = tcp.SetKeepAliveConfig(keepAlive)
		} else {
			_ = tcp.SetKeepAlive(false)
		}
	}
	if d.TCPUserTimeout <= 0 {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return setUserTimeout(raw, d.TCPUserTimeout)
}

// keepAlive resolves the meanings of the field's zero and negative values.
func (d *Dialer) keepAlive() (cfg net.KeepAliveConfig, on bool) {
	cfg = d.KeepAlive
	if !cfg.Enable && cfg.Idle < 0 {
		return net.KeepAliveConfig{}, false
	}
	cfg.Enable = true
	return cfg, true
}
