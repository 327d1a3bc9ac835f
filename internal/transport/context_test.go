package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// TestContext ends the context in each phase: in the dial, in the wait for the
// answer, in the text of an error, and in the handshake.
func TestContext(t *testing.T) {
	t.Parallel()
	phases := map[string]struct {
		phase    transport.Phase
		greeting string // what the server says before it falls silent
	}{
		"dial":      {phase: transport.PhaseDial},
		"request":   {phase: transport.PhaseRequest},
		"error":     {phase: transport.PhaseRequest, greeting: "E"},
		"handshake": {phase: transport.PhaseHandshake, greeting: "S"},
	}
	for name, tt := range phases {
		for _, end := range []string{"cancelled", "deadline"} {
			t.Run(name+" "+end, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(t.Context())
				if end == "deadline" {
					ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
				}
				defer cancel()
				reached := func() {
					if end == "cancelled" {
						cancel()
					}
				}
				closed := make(chan struct{})
				e := serve(t, func(conn net.Conn) {
					deaf(conn, tt.greeting, reached)
					close(closed)
				})
				d := &transport.Dialer{}
				if tt.phase == transport.PhaseDial {
					d.DialContext = deafDial(reached)
				}
				_, err := connect(ctx, d, e, mustPolicy(t, pq.Config{}, nil))
				var failed *transport.Error
				if ctx.Err() == nil || !errors.Is(err, ctx.Err()) || !errors.As(err, &failed) || failed.Phase != tt.phase {
					t.Errorf("got %v", err)
				}
				if tt.phase != transport.PhaseDial {
					<-closed
				}
			})
		}
	}
}

// deaf answers, tells that it did once the client has gone on, and reads until
// the client closes.
func deaf(conn net.Conn, greeting string, reached func()) {
	if readRequest(conn) != nil {
		return
	}
	io.WriteString(conn, greeting)
	if greeting == "S" {
		conn.Read(make([]byte, 1)) // the handshake has begun
	}
	reached()
	io.Copy(io.Discard, conn)
}

// deafDial is a dial that nobody answers.
func deafDial(reached func()) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		reached()
		<-ctx.Done()
		return nil, errors.New("gave up")
	}
}

func TestContextDoneBefore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dialled := false
	d := &transport.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
		dialled = true
		return nil, errors.New("dialled")
	}}
	_, err := connect(ctx, d, transport.Endpoint{Host: "far.test", Port: 1}, plainPolicy(t))
	if !errors.Is(err, context.Canceled) || dialled {
		t.Errorf("dialled %t, got %v", dialled, err)
	}
}

// TestContextAfter checks that the context of Connect bounds only that.
func TestContextAfter(t *testing.T) {
	t.Parallel()
	for _, cfg := range []pq.Config{{SSLMode: "disable"}, {SSLMode: "require"}} {
		handle := func(conn net.Conn) { io.Copy(conn, conn) }
		if cfg.SSLMode != "disable" {
			handle = speakTLS(serverConfig(certs().good), nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := connect(ctx, &transport.Dialer{}, serve(t, handle), mustPolicy(t, cfg, nil))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		echo(t, conn)
		conn.Close()
	}
}

// TestNoDeadlines checks that a connection without deadlines, such as one
// through SSH, is interrupted too.
func TestNoDeadlines(t *testing.T) {
	t.Parallel()
	for _, greeting := range []string{"", "S", "E"} {
		ctx, cancel := context.WithCancel(t.Context())
		e := serve(t, func(conn net.Conn) { deaf(conn, greeting, cancel) })
		d := &transport.Dialer{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return noDeadlines{conn}, err
		}}
		if _, err := connect(ctx, d, e, mustPolicy(t, pq.Config{}, nil)); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: got %v", greeting, err)
		}
		cancel()
	}
}

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (noDeadlines) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (noDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
