//go:build unix

package pgserver

import (
	"io"
	"os"
	"os/exec"
	"syscall"
)

// janitorScript waits on its standard input for a line, which says that there is
// nothing to do. When the input ends without one, this program is gone and did
// not clean up: the script removes the container $2 if any, asks the postmaster
// of the folder $1 to stop, gives it 30 s, and removes the folder, where an initdb
// may still be about to end.
const janitorScript = `
trap '' HUP INT TERM
read -r _ && exit
if [ -n "$2" ]; then docker rm -fv "$2"; fi
if pid=$(head -n 1 "$1/data/postmaster.pid"); then kill -INT "$pid"; fi
i=0
while [ -e "$1/data/postmaster.pid" ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
while ! rm -rf "$1" && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
`

// A janitor cleans up after this program should it end without Close.
type janitor struct {
	cmd  *exec.Cmd
	line io.WriteCloser // the janitor's standard input
}

// hireJanitor starts the janitor of a folder and a container, which may be "".
// The caller must dismiss it.
func hireJanitor(dir, container string) (*janitor, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", janitorScript, "pgnotify-janitor", dir, container)
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals to our group are not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return &janitor{cmd: cmd, line: w}, nil
}

// dismiss ends the janitor, which then does nothing, and waits for it.
func (j *janitor) dismiss() error {
	if j == nil {
		return nil
	}
	_, _ = io.WriteString(j.line, "\n") // it fails if the janitor is gone: as well
	j.line.Close()
	return j.cmd.Wait()
}
