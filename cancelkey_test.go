package pgnotify_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// K14: a cancel request has the key as the server gave it, whatever its length:
// 4 bytes, or up to 256 since protocol 3.2.
func TestCancelKeyOfAnyLength(t *testing.T) {
	t.Parallel()
	for _, size := range []int{4, 5, 32, 255, 256} {
		for _, by := range []string{"context", "Cancel"} {
			t.Run(fmt.Sprintf("%d/%s", size, by), func(t *testing.T) {
				t.Parallel()
				key := make([]byte, size)
				for i := range key {
					key[i] = byte(size - i)
				}
				asked, cancelled := make(chan struct{}), make(chan struct{})
				fake := pgfake.Start(t, pgfake.Script{pgfake.GreetWith(string(key)), pgfake.Await('Q'),
					func(*pgfake.Session) error { close(asked); return nil }, pgfake.WaitFor(cancelled),
					pgfake.Send(pgfake.Error("ERROR", "57014", "canceling statement due to user request"), pgfake.Ready('I')),
					pgfake.Serve()})
				s := take(t, open(t, fake.DSN()+" max_protocol_version=3.2"))
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				done := async(t, func() error { return execError(s.ExecContext(ctx, "select 1")) })
				recv(t, asked)
				if by == "context" {
					cancel()
				} else if err := s.pc.Cancel(ctx); err != nil {
					t.Error(err)
				}
				until(t, "the request has come", func() bool { return fake.Cancels() > 0 })
				close(cancelled)
				if err := recv(t, done); !isQueryCanceled(err) {
					t.Errorf("the statement: %v", err)
				}
				want := string(binary.BigEndian.AppendUint32(nil, pgfake.PID)) + string(key)
				for _, got := range fake.CancelRequests() {
					if got != want {
						t.Errorf("the request was for %q, want %q", got, want)
					}
				}
				mustExec(t, s, "select 1")
			})
		}
	}
}

// A server without a key, as some poolers are: what cannot be cancelled says so.
func TestCancelWithoutAKey(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(),
		pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"), pgfake.Ready('I')), pgfake.Await('Q'),
		func(*pgfake.Session) error { close(asked); return nil }, pgfake.Drain()})
	s := take(t, open(t, fake.DSN(), cancelTimeout(300*time.Millisecond)))
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := async(t, func() error { return execError(s.ExecContext(ctx, "select 1")) })
	recv(t, asked)
	if err := s.pc.Cancel(ctx); !errors.Is(err, pgnotify.ErrNotSupported) {
		t.Errorf("Cancel: %v", err)
	}
	cancel()
	err := recv(t, done)
	wantLost(t, err, "no key")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the statement: %v", err)
	}
}

// K14: with a server that speaks protocol 3.2, from version 18 on, the key is a long
// one; an older server is content with 4 bytes.
func TestCancelWithProtocol32(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			n := new(network)
			s := take(t, open(t, m.dsn+" max_protocol_version=3.2", n.option))
			version, _ := s.pc.ParameterStatus("server_version")
			number := serverVersion(t, s)
			for _, by := range []string{"context", "Cancel"} {
				ctx, cancel := context.WithCancel(testContext(t))
				done := async(t, func() error { return execError(s.ExecContext(ctx, longSleep)) })
				untilWaiting(t, open(t, dsn(t)), s.pc.PID(), "PgSleep")
				if by == "context" {
					cancel()
				} else if err := s.pc.Cancel(ctx); err != nil {
					t.Error(err)
				}
				if err := recv(t, done); !isQueryCanceled(err) {
					t.Errorf("by %s: %v", by, err)
				}
				cancel()
				if pid := queryValue[uint32](t, s, "select pg_backend_pid()"); pid != s.pc.PID() {
					t.Errorf("session %d became %d", s.pc.PID(), pid)
				}
			}
			if m.name == "tls" {
				return // nothing to be seen in what was sent
			}
			keySize := 4
			if number >= 18 {
				keySize = 32
			}
			sent := n.sent()
			head := binary.BigEndian.AppendUint32(nil, uint32(12+keySize))
			head = binary.BigEndian.AppendUint32(head, 1234<<16|5678)
			head = binary.BigEndian.AppendUint32(head, s.pc.PID())
			if len(sent) != 12+keySize || !slices.Equal(sent[:min(12, len(sent))], head) {
				t.Errorf("server %s was sent %q", version, sent)
			}
			t.Logf("server %s: a key of %d bytes", version, len(sent)-12)
		})
	}
}
