//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// unixSockets says whether throwaway servers listen on a unix socket as well.
const unixSockets = true

// An account is the user as whom a server is run. Nil is our own.
type account struct{ uid, gid int }

// serverAccount returns nil, or, as PostgreSQL refuses to be run by root, the
// user postgres or nobody if we are root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		return &account{uid, gid}, errors.Join(uidErr, gidErr)
	}
	return nil, errors.New("PostgreSQL cannot be run by root, and there is neither a user postgres nor nobody to run it")
}

// own gives path to a.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// run makes cmd run as a, out of reach of the terminal's Ctrl-C, which is for
// this program to handle, and ended along with this program where the system can.
func (a *account) run(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	endWithParent(cmd.SysProcAttr)
}

// signalStop asks the postmaster p to stop.
// See https://www.postgresql.org/docs/current/server-shutdown.html.
func signalStop(_ string, p *os.Process, mode StopMode) error {
	switch mode {
	case Fast:
		return p.Signal(syscall.SIGINT)
	case Immediate:
		return p.Signal(syscall.SIGQUIT)
	}
	return fmt.Errorf("unknown mode %v", mode)
}

// killGroup ends p and the children that it has left.
func killGroup(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // it fails if they have just ended
}

// raise sends sig to this process.
func raise(sig os.Signal) {
	_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal)) // cannot fail for oneself
}
