package compat

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgnotify/pgnotify"
)

// A bastion is an SSH server that forwards what comes through a tunnel (direct-tcpip).
type bastion struct {
	client *ssh.Client
	silent chan struct{} // closed when nothing passes any more

	tasks sync.WaitGroup
}

// startBastion returns a bastion with a client, which end with the test.
func startBastion(t *testing.T) *bastion {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := &bastion{silent: make(chan struct{})}
	b.tasks.Go(func() { // ends with the connection; joined by the cleanup
		if conn, err := l.Accept(); err == nil {
			b.serve(conn, config)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	muted := &mutedConn{Conn: conn, silent: b.silent, ended: make(chan struct{})}
	c, channels, requests, err := ssh.NewClientConn(muted, "bastion", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	b.client = ssh.NewClient(c, channels, requests)
	t.Cleanup(func() {
		muted.end()
		b.client.Close()
		b.tasks.Wait()
	})
	return b
}

// serve forwards until the connection ends.
func (b *bastion) serve(conn net.Conn, config *ssh.ServerConfig) {
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		conn.Close()
		return
	}
	defer server.Close()
	b.tasks.Go(func() { ssh.DiscardRequests(requests) })
	for c := range channels {
		var to struct {
			Host   string
			Port   uint32
			Origin string
			From   uint32
		}
		if c.ChannelType() != "direct-tcpip" || ssh.Unmarshal(c.ExtraData(), &to) != nil {
			_ = c.Reject(ssh.UnknownChannelType, "only direct-tcpip")
			continue
		}
		out, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
		if err != nil {
			_ = c.Reject(ssh.ConnectionFailed, err.Error())
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			out.Close()
			continue
		}
		b.tasks.Go(func() { ssh.DiscardRequests(requests) })
		b.tasks.Go(func() { _, _ = io.Copy(out, channel); out.Close() })
		b.tasks.Go(func() { _, _ = io.Copy(channel, out); channel.Close() })
	}
}

// A mutedConn passes nothing on any more when it is silent: what is written is taken,
// and reads wait for its end.
type mutedConn struct {
	net.Conn
	silent <-chan struct{}
	ended  chan struct{}
}

func (c *mutedConn) end() {
	close(c.ended)
	c.Conn.Close()
}

func (c *mutedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.silent:
		<-c.ended
		return 0, io.EOF
	default:
		return n, err
	}
}

func (c *mutedConn) Write(p []byte) (int, error) {
	select {
	case <-c.silent:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

// W7: over a tunnel of x/crypto/ssh, whose connections have no deadlines and whose Close
// ends no Read while the bastion is silent, everything ends as over a socket, whether
// DialContext knows contexts or not.
func TestSSHTunnelThatFallsSilent(t *testing.T) {
	for name, dial := range map[string]func(c *ssh.Client) func(context.Context, string, string) (net.Conn, error){
		"Dial": func(c *ssh.Client) func(context.Context, string, string) (net.Conn, error) {
			return func(_ context.Context, network, addr string) (net.Conn, error) { return c.Dial(network, addr) }
		},
		"DialContext": func(c *ssh.Client) func(context.Context, string, string) (net.Conn, error) { return c.DialContext },
	} {
		t.Run(name, func(t *testing.T) { sshTunnel(t, dial) })
	}
}

func sshTunnel(t *testing.T, dial func(*ssh.Client) func(context.Context, string, string) (net.Conn, error)) {
	first, second := startBastion(t), startBastion(t)
	way := func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-first.silent:
			return dial(second.client)(ctx, network, addr)
		default:
			return dial(first.client)(ctx, network, addr)
		}
	}
	all, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dsn := server(t).DSN() + " sslmode=disable"
	direct := openThrough(t, dsn, nil)
	stuck := openThrough(t, dsn, func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(first.client)(ctx, network, addr)
	})

	var conns []*sql.Conn
	for range 3 {
		conn, err := stuck.Conn(all)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	pc, err := pgnotify.FromConn(conns[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.Listen(all, "ssh"); err != nil {
		t.Fatal(err)
	}
	if err := pgnotify.Notify(all, conns[0], "ssh", "pending"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for n, err := range pc.Notifications(all, pgnotify.Timeout(0)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.Payload)
	}
	if len(got) != 1 || got[0] != "pending" {
		t.Errorf("Timeout(0) yields %q", got)
	}

	connector, err := pgnotify.NewConnector(config(t, dsn, way))
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan pgnotify.ListenerEvent, 100)
	l, err := pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		Heartbeat: 100 * time.Millisecond, HeartbeatTimeout: time.Second, MinBackoff: 20 * time.Millisecond,
		OnEvent: func(e pgnotify.ListenerEvent) { events <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sub, err := l.Subscribe(all, "ssh_listener")
	if err != nil {
		t.Fatal(err)
	}

	close(first.silent)
	for i, ask := range []func(ctx context.Context, conn *sql.Conn) error{
		func(ctx context.Context, _ *sql.Conn) error { return pc.Listen(ctx, "more") },
		func(ctx context.Context, conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, "select 1")
			return err
		},
		func(ctx context.Context, conn *sql.Conn) error { return conn.PingContext(ctx) },
		func(ctx context.Context, _ *sql.Conn) error { return stuck.PingContext(ctx) },
	} {
		ctx, cancel := context.WithTimeout(all, 200*time.Millisecond)
		began := time.Now()
		err := ask(ctx, conns[i%len(conns)])
		cancel()
		if took := time.Since(began); took > 10*time.Second || !errors.Is(err, context.DeadlineExceeded) && !pgnotify.IsDisconnect(err) {
			t.Errorf("request %d: %v, after %v", i, err, took)
		}
	}
	for _, conn := range conns {
		conn.Close()
	}
	if err := stuck.Close(); err != nil {
		t.Error(err)
	}

	for connected := 0; connected < 2; { // the Listener goes on through the second bastion
		select {
		case e := <-events:
			if e.Kind == pgnotify.ListenerConnected {
				connected++
			}
		case <-all.Done():
			t.Fatal("the Listener does not reconnect")
		}
	}
	if err := pgnotify.Notify(all, direct, "ssh_listener", "after"); err != nil {
		t.Fatal(err)
	}
	gap := false
	for n, err := range sub.All(all) {
		if err != nil {
			var g *pgnotify.GapError
			if gap = errors.As(err, &g); !gap {
				t.Fatal(err)
			}
			continue
		}
		if n.Payload != "after" || !gap {
			t.Errorf("%q, after a gap: %v", n.Payload, gap)
		}
		break
	}
	began := time.Now()
	close(second.silent)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func config(t *testing.T, dsn string, dial func(context.Context, string, string) (net.Conn, error)) *pgnotify.Config {
	t.Helper()
	c, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	c.DialContext, c.CancelTimeout = dial, 300*time.Millisecond
	return c
}

// openThrough returns a pool that ends with the test.
func openThrough(t *testing.T, dsn string, dial func(context.Context, string, string) (net.Conn, error)) *sql.DB {
	t.Helper()
	connector, err := pgnotify.NewConnector(config(t, dsn, dial))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { db.Close() })
	return db
}
