//go:build !unix

package pgserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// unixSockets says whether throwaway servers listen on a unix socket as well.
const unixSockets = false

// An account is the user as whom a server is run: here always our own.
type account struct{}

func serverAccount() (*account, error) { return nil, nil }

func (*account) own(string) error { return nil }

func (*account) run(*exec.Cmd) {}

// signalStop asks the postmaster p to stop. Its signals are emulated, for which
// pg_ctl has the means.
func signalStop(bin string, p *os.Process, mode StopMode) error {
	signal := "INT"
	if mode == Immediate {
		signal = "QUIT"
	}
	return exec.Command(filepath.Join(bin, "pg_ctl"), "kill", signal, strconv.Itoa(p.Pid)).Run()
}

// raise ends the program, with the status that a shell gives to one interrupted.
func raise(os.Signal) { os.Exit(130) }

// killGroup ends p.
func killGroup(p *os.Process) {
	_ = p.Kill() // it fails if it has just ended
}
