//go:build unix

package pgserver_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// program is a child of the test that has started a server and waits.
type program struct {
	cmd       *exec.Cmd
	pid       int // of the postmaster
	port      int
	socketDir string
	container string
}

// run starts the test binary as a program that uses a server of source.
func run(t *testing.T, source pgserver.Source) *program {
	t.Helper()
	require(t, source)
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+source.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("no server: ", err)
	}
	go io.Copy(io.Discard, out) // ends with the child
	p := &program{cmd: cmd}
	if _, err := fmt.Sscan(line, &p.pid, &p.port, &p.socketDir, &p.container); err != nil && source == pgserver.Docker {
		t.Fatal(err)
	}
	return p
}

// TestSignals sends a signal to a program and checks that it has its usual
// effect and that nothing of the server is left. SIGKILL leaves no time to
// clean up: others must.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		forOurs(t, func(t *testing.T, source pgserver.Source) {
			if signal.Ignored(sig) {
				t.Skipf("%v is ignored here", sig)
			}
			p := run(t, source)
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = p.cmd.Wait() // it tells the same as the state
			status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() || status.Signal() != sig {
				t.Errorf("the program ended by %v", p.cmd.ProcessState)
			}
			if source == pgserver.Docker && sig == syscall.SIGKILL {
				requireDockerCommand(t, p.container)
			}
			checkNothingLeft(t, p.port, p.socketDir, p.container)
		})
	}
}

// requireDockerCommand skips the rest where the janitor cannot remove the
// container, and removes it in its place.
func requireDockerCommand(t *testing.T, container string) {
	t.Helper()
	if _, err := exec.LookPath("docker"); err != nil {
		pgserver.RemoveContainer(testContext(t), container)
		t.Skip("without the docker command, the container stays until it expires")
	}
}

// TestSignalHandled has a handler of the program's own: the signal does not end
// the program, but the server is gone.
func TestSignalHandled(t *testing.T) {
	handled := make(chan os.Signal, 2)
	signal.Notify(handled, syscall.SIGTERM)
	defer signal.Stop(handled)
	s := start(t, pgserver.Installed, pgserver.Options{})
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-handled
	<-handled // the second comes after the server's end
	if !refused(s.Port()) {
		t.Error("the server is still there")
	}
	checkNothingLeft(t, s.Port(), s.SocketDir(), "")
}
