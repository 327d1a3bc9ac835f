package pgnotify_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// hidden is a connection of DialContext that has no descriptor.
type hidden struct{ net.Conn }

func hideSockets(c *pgnotify.Config) {
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return hidden{conn}, nil
	}
}

// D2, D11: without a descriptor, the end is seen as soon, by the goroutine that reads
// the connection ahead.
func TestWithoutADescriptor(t *testing.T) {
	t.Parallel()
	admin := open(t, dsn(t))
	for _, m := range modes(t) {
		for name, wait := range map[string]func(t *testing.T, s *session) <-chan struct{}{
			"Disconnected": func(_ *testing.T, s *session) <-chan struct{} { return s.pc.Disconnected() },
			"WatchContext": func(t *testing.T, s *session) <-chan struct{} {
				ctx, stop := s.pc.WatchContext(testContext(t))
				t.Cleanup(stop)
				return ctx.Done()
			},
			"with rows open": func(t *testing.T, s *session) <-chan struct{} {
				rows, err := s.QueryContext(testContext(t), "select generate_series(1, 3)")
				if err != nil {
					t.Fatal(err)
				}
				over := s.pc.Disconnected()
				if err := readRows(rows, nil); err != nil {
					t.Error(err)
				}
				return over
			},
			"in a transaction": func(t *testing.T, s *session) <-chan struct{} {
				mustBegin(t, s)
				return s.pc.Disconnected()
			},
			"active": func(_ *testing.T, s *session) <-chan struct{} {
				s.pc.Activate()
				return s.pc.Disconnected()
			},
		} {
			t.Run(m.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				ended := make(chan farewell, 10)
				s := take(t, open(t, m.dsn, hideSockets, toldTo(ended)))
				if s.pc.Active() || s.pc.Watched() {
					t.Error("active or watched by the poller at first")
				}
				if _, err := s.pc.SyscallConn(); !errors.Is(err, pgnotify.ErrNotSupported) {
					t.Errorf("SyscallConn: %v", err)
				}
				over := wait(t, s)
				terminate(t, admin, s.pc.PID())
				start := time.Now()
				recv(t, over)
				t.Logf("seen after %v", time.Since(start))
				wantLoss(t, "DisconnectErr", s.pc.DisconnectErr(), pgnotify.AdminShutdown, "57P01")
				wantLoss(t, "OnDisconnect", recv(t, ended).err, pgnotify.AdminShutdown, "57P01")
			})
		}
	}
}

// D2, D7: without a descriptor, and with nobody who waits, the end is seen and told at
// once, with its reason, and the pool has another session.
func TestWithoutADescriptorAndUnwatched(t *testing.T) {
	t.Parallel()
	admin := open(t, dsn(t))
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan farewell, 10)
			db := open(t, m.dsn, hideSockets, toldTo(ended))
			db.SetMaxOpenConns(1)
			s := take(t, db)
			pid := s.pc.PID()
			s.Close()
			terminate(t, admin, pid)
			wantLoss(t, "OnDisconnect", recv(t, ended).err, pgnotify.AdminShutdown, "57P01")
			if again := queryValue[uint32](t, db, "select pg_backend_pid()"); again == pid {
				t.Error("the same session")
			}
		})
	}
}
