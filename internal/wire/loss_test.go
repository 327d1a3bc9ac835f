package wire_test

import (
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgnotify/pgnotify/internal/wire"
)

func TestLoss(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(t *testing.T, server *net.TCPConn)
		err   error
		fatal string
	}{
		{"EOF", func(*testing.T, *net.TCPConn) {}, io.EOF, ""},
		{"in a frame", func(t *testing.T, s *net.TCPConn) { send(t, s, idle[:3]) }, io.EOF, ""},
		{"fatal", func(t *testing.T, s *net.TCPConn) { send(t, s, killed) }, io.EOF, "57P01"},
		{"two fatals", func(t *testing.T, s *net.TCPConn) { send(t, s, killed, lostServer) }, io.EOF, "57P01"},
		{"two long fatals", func(t *testing.T, s *net.TCPConn) {
			send(t, s, report('E', "SFATAL", "VFATAL", "C57P05", "M"+strings.Repeat("x", 50_000)), lostServer)
		}, io.EOF, "57P05"},
		{"warning and fatal", func(t *testing.T, s *net.TCPConn) { send(t, s, crash, lostServer) }, io.EOF, "57P02"},
		{"fatal and warning", func(t *testing.T, s *net.TCPConn) { send(t, s, killed, crash) }, io.EOF, "57P01"},
		{"two warnings", func(t *testing.T, s *net.TCPConn) {
			send(t, s, crash, report('N', "SWARNING", "VWARNING", "C57P01", "Mx"))
		}, io.EOF, "57P02"},
		{"notice of a function and fatal", func(t *testing.T, s *net.TCPConn) {
			send(t, s, report('N', "SNOTICE", "VNOTICE", "C57P02", "Mx"), killed)
		}, io.EOF, "57P01"},
		{"long fatal", func(t *testing.T, s *net.TCPConn) {
			send(t, s, report('E', "SFATAL", "VFATAL", "C57P01", "M"+strings.Repeat("x", 50_000)))
		}, io.EOF, "57P01"},
		{"localised fatal of an old server", func(t *testing.T, s *net.TCPConn) { send(t, s, report('E', "SPANIC", "CXX000", "Mx")) }, io.EOF, "XX000"},
		{"no fatal", func(t *testing.T, s *net.TCPConn) { send(t, s, syntaxErr) }, io.EOF, ""},
		{"fatal and reset", func(t *testing.T, s *net.TCPConn) { send(t, s, killed); _ = s.SetLinger(0) }, nil, "57P01"},
		{"reset", func(t *testing.T, s *net.TCPConn) { _ = s.SetLinger(0) }, syscall.ECONNRESET, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.name, "reset") && runtime.GOOS != "linux" {
				t.Skip("what a reset leaves to read is told for Linux here")
			}
			modes(t, func(t *testing.T, active bool) {
				cl, server := session(t, active, nobody{})
				c.end(t, server)
				server.Close()
				err := <-read(cl.conn)
				wait(t, "Lost", cl.conn.Lost())
				loss := cl.conn.Loss()
				if loss.Err != err || c.err != nil && !errors.Is(err, c.err) || loss.Local {
					t.Errorf("%v, %+v", err, loss)
				}
				fatal := ""
				if loss.Fatal != nil {
					fatal = string(loss.Fatal.Code)
				}
				if fatal != c.fatal {
					t.Errorf("fatal %q, want %q", fatal, c.fatal)
				}
				if n, err := cl.conn.Write(query("SELECT")); n != 0 || err != loss.Err {
					t.Errorf("Write: %d, %v", n, err)
				}
			})
		})
	}
}

// A faulty conn fails as it is told.
type faulty struct {
	net.Conn
	write  func([]byte) (int, error)
	writes atomic.Int32
}

func (f *faulty) Write(p []byte) (int, error) {
	f.writes.Add(1)
	if f.write != nil {
		return f.write(p)
	}
	return f.Conn.Write(p)
}

// TestLastWords: a write fails because the server has ended the session; its
// reason is found.
func TestLastWords(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		near, server := pair(t)
		f := &faulty{Conn: near}
		heard := newEvents()
		cl := sessionOver(t, f, server, active, heard)
		f.write = func(p []byte) (int, error) {
			send(t, server, notice("goodbye"), killed)
			server.Close()
			return 3, syscall.EPIPE
		}
		cl.conn.BeginOperation()
		n, err := cl.conn.Write(query("SELECT"))
		if n != 3 || err == nil || cl.conn.Sent() != 3 {
			t.Errorf("Write: %d, %v; %d sent", n, err, cl.conn.Sent())
		}
		loss := cl.conn.Loss()
		if loss == nil || loss.Err != err || loss.Fatal == nil || loss.Fatal.Code != "57P01" || loss.Local {
			t.Fatalf("%+v", loss)
		}
		if got := heard.snapshot(); !slices.Equal(got, []string{"N goodbye"}) {
			t.Errorf("heard %q", got)
		}
		if n, err := cl.conn.Write(query("SELECT")); n != 0 || err != loss.Err || f.writes.Load() != 1 {
			t.Errorf("Write after: %d, %v, %d writes", n, err, f.writes.Load())
		}
	})
}

// TestLastWordsAfterReset is the same with a real socket that was reset.
func TestLastWordsAfterReset(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what a reset leaves to read is told for Linux here")
	}
	modes(t, func(t *testing.T, active bool) {
		cl, server := session(t, active, nobody{})
		send(t, server, killed)
		_ = server.SetLinger(0)
		server.Close()
		for deadline := time.Now().Add(patience); cl.conn.Loss() == nil && time.Now().Before(deadline); {
			_, _ = cl.conn.Write(query("SELECT"))
		}
		if loss := cl.conn.Loss(); loss == nil || loss.Fatal == nil {
			t.Fatalf("%+v", loss)
		}
	})
}

// TestNoLastWords: a write fails and the server says nothing, but goes on.
func TestNoLastWords(t *testing.T) {
	modes(t, func(t *testing.T, active bool) {
		synctest.Test(t, func(t *testing.T) {
			near, server := net.Pipe()
			defer server.Close()
			go func() { _, _ = server.Write(join(greeting()...)) }()
			f := &faulty{Conn: near}
			conn := wire.NewConn(f, nobody{})
			cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
			if _, err := cl.readAnswer(len(join(greeting()...))); err != nil {
				t.Fatal(err)
			}
			if active {
				conn.Activate()
			}
			f.write = func([]byte) (int, error) { return 0, syscall.EPIPE }
			if n, err := conn.Write(query("SELECT")); n != 0 || err != syscall.EPIPE {
				t.Errorf("Write: %d, %v", n, err)
			}
			if loss := conn.Loss(); loss == nil || loss.Err != syscall.EPIPE || loss.Local {
				t.Errorf("%+v", loss)
			}
			conn.Close()
		})
	})
}
