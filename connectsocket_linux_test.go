package pgnotify_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgnotify/pgnotify"
)

// socketOptions are those of keepalive, where it is on, and TCP_USER_TIMEOUT.
type socketOptions struct{ on, idle, interval, count, userTimeout int }

// readOptions asks the kernel for the options of a session's socket.
func readOptions(t testing.TB, socket net.Conn) (o socketOptions) {
	t.Helper()
	raw, err := socket.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	get := func(fd uintptr, level, name int) int {
		value, err := unix.GetsockoptInt(int(fd), level, name)
		failed = errors.Join(failed, err)
		return value
	}
	err = raw.Control(func(fd uintptr) {
		o.on = get(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		o.userTimeout = get(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if o.on != 0 {
			o.idle = get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
			o.interval = get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
			o.count = get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return o
}

// C11: what the DSN and the Config say about the socket is what the kernel says.
func TestSocketOptions(t *testing.T) {
	t.Parallel()
	config := func(f func(*pgnotify.Config)) []func(*pgnotify.Config) { return []func(*pgnotify.Config){f} }
	dialer := func(c *pgnotify.Config) { c.DialContext = (&net.Dialer{KeepAlive: -1}).DialContext }
	for name, c := range map[string]struct {
		dsn     string
		options []func(*pgnotify.Config)
		want    socketOptions
	}{
		"default":          {"", nil, socketOptions{1, 15, 15, 9, 0}},
		"on":               {" keepalives=1", nil, socketOptions{1, 15, 15, 9, 0}},
		"off":              {" keepalives=0 keepalives_idle=3", nil, socketOptions{}},
		"idle":             {" keepalives_idle=31", nil, socketOptions{1, 31, 15, 9, 0}},
		"interval":         {" keepalives_interval=7", nil, socketOptions{1, 15, 7, 9, 0}},
		"count":            {" keepalives_count=4", nil, socketOptions{1, 15, 15, 4, 0}},
		"user timeout":     {" tcp_user_timeout=2500", nil, socketOptions{1, 15, 15, 9, 2500}},
		"all":              {" keepalives=1 keepalives_idle=31 keepalives_interval=7 keepalives_count=4 tcp_user_timeout=1", nil, socketOptions{1, 31, 7, 4, 1}},
		"all, own dialer":  {" keepalives_idle=31 keepalives_interval=7 keepalives_count=4 tcp_user_timeout=1", config(dialer), socketOptions{1, 31, 7, 4, 1}},
		"none, own dialer": {"", config(dialer), socketOptions{}},
		"Config": {"", config(func(c *pgnotify.Config) {
			c.KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 2 * time.Second, Count: 3}
			c.TCPUserTimeout = 1500 * time.Millisecond
		}), socketOptions{1, 20, 2, 3, 1500}},
		"Config, off":        {"", config(func(c *pgnotify.Config) { c.KeepAlive = net.KeepAliveConfig{Idle: -1} }), socketOptions{}},
		"Config against DSN": {" keepalives=0", config(func(c *pgnotify.Config) { c.KeepAlive = net.KeepAliveConfig{} }), socketOptions{1, 15, 15, 9, 0}},
	} {
		for _, m := range modes(t) {
			t.Run(m.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				socket := take(t, open(t, m.dsn+c.dsn, c.options...)).pc.Socket()
				if m.name == "unix" {
					return // the options are for TCP, and no error elsewhere
				}
				if got := readOptions(t, socket); got != c.want {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
			})
		}
	}
}

// C2: a host that drops what is sent to it: here a queue of connections that is
// full. connect_timeout holds, the next host is reached.
func TestHostThatDropsPackets(t *testing.T) {
	t.Parallel()
	place := fullQueue(t)
	err := connectError(t, listDSN(t, place), within(200*time.Millisecond))
	wantInOrder(t, err, "pgnotify: ", place, "connect_timeout of 200ms")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s := ours(t)
	mustPing(t, open(t, s.dsn+" host=127.0.0.1,"+s.Host()+" port="+portOf(t, place)+","+strconv.Itoa(s.Port()), within(time.Second)))
	ctx, cancel := context.WithCancel(testContext(t))
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := connector(t, listDSN(t, place)).Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// fullQueue returns an address of which the kernel answers no more packets: the
// queue of connections that nobody accepts is full.
func fullQueue(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	for range 10 {
		conn, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err != nil {
			return addr.String()
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("the queue does not fill up here")
	return ""
}
