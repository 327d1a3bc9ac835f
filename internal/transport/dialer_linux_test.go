package transport_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/transport"
	"golang.org/x/sys/unix"
)

// option reads an integer option of conn's socket.
func option(t *testing.T, conn net.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ctlErr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) })
	if ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return value
}

func TestSocketOptions(t *testing.T) {
	t.Parallel()
	type options struct{ on, idle, interval, count, timeout int }
	custom := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, addr)
	}
	set := net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 4}
	off := net.KeepAliveConfig{Idle: -1}
	for name, tt := range map[string]struct {
		d    transport.Dialer
		want options // idle, interval and count only where on
	}{
		"zero":            {transport.Dialer{}, options{1, 15, 15, 9, 0}},
		"off":             {transport.Dialer{KeepAlive: off}, options{}},
		"set":             {transport.Dialer{KeepAlive: set, TCPUserTimeout: 1500 * time.Millisecond}, options{1, 7, 3, 4, 1500}},
		"idle alone":      {transport.Dialer{KeepAlive: net.KeepAliveConfig{Idle: 8 * time.Second}}, options{1, 8, 15, 9, 0}},
		"rounded up":      {transport.Dialer{TCPUserTimeout: time.Microsecond}, options{1, 15, 15, 9, 1}},
		"clamped":         {transport.Dialer{TCPUserTimeout: 24 * 365 * time.Hour}, options{1, 15, 15, 9, 1<<31 - 1}},
		"custom, zero":    {transport.Dialer{DialContext: custom}, options{}},
		"custom, set":     {transport.Dialer{DialContext: custom, KeepAlive: set}, options{1, 7, 3, 4, 0}},
		"custom, off":     {transport.Dialer{DialContext: new(net.Dialer).DialContext, KeepAlive: off}, options{}},
		"custom, timeout": {transport.Dialer{DialContext: custom, TCPUserTimeout: time.Second}, options{timeout: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, func(conn net.Conn) { io.Copy(conn, conn) })
			conn, err := connect(bounded(t), &tt.d, e, plainPolicy(t))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			got := options{
				on:      option(t, conn.Socket, unix.SOL_SOCKET, unix.SO_KEEPALIVE),
				timeout: option(t, conn.Socket, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT),
			}
			if got.on != 0 {
				got.idle = option(t, conn.Socket, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				got.interval = option(t, conn.Socket, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
				got.count = option(t, conn.Socket, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if option(t, conn.Socket, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
				t.Error("TCP_NODELAY is off")
			}
		})
	}
}
