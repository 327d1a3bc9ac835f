package pgserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// ourSources are those whose servers can be stopped and started.
var ourSources = []pgserver.Source{pgserver.Installed, pgserver.Docker}

func forOurs(t *testing.T, f func(t *testing.T, source pgserver.Source)) {
	for _, source := range ourSources {
		t.Run(source.String(), func(t *testing.T) {
			t.Parallel()
			f(t, source)
		})
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		var said []string
		s := start(t, source, pgserver.Options{
			Config: map[string]string{"max_connections": "37", "fsync": "on", "application_name": `it's a \ ö`, "port": "1"},
			Logf:   func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) },
		})
		checkSettings(t, s)
		checkAddresses(t, s)
		if len(said) != 1 || !strings.Contains(said[0], s.Host()+":"+strconv.Itoa(s.Port())) || strings.Contains(said[0], "\n") {
			t.Errorf("said %q", said)
		}
		if !s.Superuser() || s.Source() != source {
			t.Errorf("got %v, superuser %v", s.Source(), s.Superuser())
		}
		if (s.PID() != 0) != (source == pgserver.Installed) || (s.Container() != "") != (source == pgserver.Docker) {
			t.Errorf("got pid %d, container %q", s.PID(), s.Container())
		}
	})
}

func checkSettings(t *testing.T, s *pgserver.Server) {
	t.Helper()
	want := map[string]string{
		"max_connections": "37", "fsync": "on", "synchronous_commit": "off", "is_superuser": "on",
		"server_encoding": "UTF8", "port": strconv.Itoa(s.Port()),
	}
	for name, value := range want {
		if got := setting(t, s.DSN(), name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

// checkAddresses checks that the unix socket works, and that others than the
// loopback do not lead to the server.
func checkAddresses(t *testing.T, s *pgserver.Server) {
	t.Helper()
	if s.SocketDir() == "" {
		t.Error("no socket")
	} else {
		dsn := strings.Replace(s.DSN(), "host=127.0.0.1", "host="+s.SocketDir(), 1)
		setting(t, dsn, "server_version")
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		conn, err := net.Dial("tcp", net.JoinHostPort(ip.IP.String(), strconv.Itoa(s.Port())))
		if err == nil {
			conn.Close()
			t.Errorf("it listens on %v", ip)
		}
	}
}

func TestAlterSystem(t *testing.T) {
	t.Parallel()
	s := start(t, pgserver.Installed, pgserver.Options{Config: map[string]string{"work_mem": "1MB"}})
	execute(t, s.DSN(), "ALTER SYSTEM SET work_mem = '2MB'")
	if err := s.Restart(testContext(t), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	if got := setting(t, s.DSN(), "work_mem"); got != "2MB" {
		t.Errorf("work_mem is %s", got)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		s := start(t, source, pgserver.Options{})
		dsn, pid := s.DSN(), s.PID()
		execute(t, dsn, "CREATE TABLE kept (n int)")
		execute(t, dsn, "CHECKPOINT")
		for _, mode := range []pgserver.StopMode{pgserver.Fast, pgserver.Immediate} {
			if err := s.Restart(testContext(t), mode); err != nil {
				t.Fatal(err)
			}
			if s.DSN() != dsn {
				t.Errorf("DSN is %q, was %q", s.DSN(), dsn)
			}
			if source == pgserver.Installed && (s.PID() == pid || s.PID() == 0) {
				t.Errorf("pid is %d, was %d", s.PID(), pid)
			}
			execute(t, dsn, "INSERT INTO kept VALUES (1)")
		}
	})
}

func TestStop(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		s := start(t, source, pgserver.Options{})
		for range 2 { // the second has nothing to do
			if err := s.Stop(testContext(t), pgserver.Fast); err != nil {
				t.Fatal(err)
			}
			if !refused(s.Port()) || s.PID() != 0 {
				t.Errorf("after Stop: refused %v, pid %d", refused(s.Port()), s.PID())
			}
		}
		if err := s.Restart(testContext(t), pgserver.Fast); err != nil {
			t.Fatal(err)
		}
		setting(t, s.DSN(), "server_version")
		if err := s.Stop(testContext(t), pgserver.Immediate); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStopEndedContext(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		s := start(t, source, pgserver.Options{})
		ctx, cancel := context.WithCancel(testContext(t))
		cancel()
		if err := s.Restart(ctx, pgserver.Fast); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		s := start(t, source, pgserver.Options{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, s.Port(), s.SocketDir(), s.Container())
		if s.PID() != 0 {
			t.Errorf("pid is %d", s.PID())
		}
		if err := s.Restart(testContext(t), pgserver.Fast); err == nil {
			t.Error("Restart after Close: no error")
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// checkNothingLeft waits until there is nothing left of a server.
func checkNothingLeft(t *testing.T, port int, socketDir, container string) {
	t.Helper()
	folder := privateFolder(socketDir)
	eventually(t, "the port is refused", func() bool { return refused(port) })
	eventually(t, folder+" is gone", func() bool { return missing(folder) })
	eventually(t, "its processes are gone", func() bool { return !processOf(t, filepath.Base(folder)) })
	if container != "" {
		eventually(t, "the container is gone", func() bool { return !pgserver.ContainerExists(testContext(t), container) })
	}
}

// privateFolder returns the folder that holds all of a server's files here.
func privateFolder(socketDir string) string {
	if filepath.Base(socketDir) == "socket" {
		return filepath.Dir(socketDir)
	}
	return socketDir
}

func TestCloseConcurrently(t *testing.T) {
	t.Parallel()
	forOurs(t, func(t *testing.T, source pgserver.Source) {
		s := start(t, source, pgserver.Options{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i == 0 { // either before Close or refused
					_ = s.Restart(testContext(t), pgserver.Immediate)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if !refused(s.Port()) {
					t.Error("Close returned before the end")
				}
			})
		}
		wg.Wait()
	})
}

// TestCrash kills the postmaster, which gives it no time to clean up.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := start(t, pgserver.Installed, pgserver.Options{})
	kill(t, s.PID())
	if err := s.Restart(testContext(t), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	segment := sharedMemory(t, s)
	kill(t, s.PID())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, s.Port(), s.SocketDir(), "")
	// Other systems have no such file, and nothing is found in it.
	segments, _ := os.ReadFile("/proc/sysvipc/shm")
	for line := range strings.Lines(string(segments)) {
		if fields := strings.Fields(line); fields[1] == segment {
			t.Errorf("shared memory is left: %s", line)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sharedMemory returns the id of a server's segment, which is the second number in
// the seventh line of postmaster.pid.
func sharedMemory(t *testing.T, s *pgserver.Server) string {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(s.SocketDir(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(file), "\n")
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		t.Fatalf("no shared memory in %q", file)
	}
	return fields[1]
}

func TestSeveralServers(t *testing.T) {
	t.Parallel()
	require(t, pgserver.Installed)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			s, err := pgserver.Start(testContext(t), pgserver.Options{Sources: []pgserver.Source{pgserver.Installed}})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
