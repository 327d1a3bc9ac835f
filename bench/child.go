package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// A child is this program once more, as a server in a process of its own, so that
// what the server needs is not counted. It ends with this process at the latest.
type child struct {
	dsn    string
	cmd    *exec.Cmd
	stdin  io.WriteCloser // commands; its end tells the child to end
	stdout *bufio.Reader  // answers
}

// childRoles are what a child can be, by the flag that makes it one. These flags
// are not for users. A role returns when its standard input ends.
var childRoles = map[string]func(net.Listener){
	greeterFlag:       beGreeter,
	secureGreeterFlag: beSecureGreeter,
	crierFlag:         beCrier,
}

func startChild(ctx context.Context, role string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, role)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // or, where races are looked for, each ends a second late
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("a server's process: %w", err), c.close())
	}
	c.dsn = strings.TrimSpace(line)
	return c, nil
}

func (c *child) close() error { return errors.Join(c.stdin.Close(), c.cmd.Wait()) }

// beChild is the child's process, if this one was started as that. It does not
// return then.
func beChild() {
	if len(os.Args) != 2 || childRoles[os.Args[1]] == nil {
		return
	}
	l, dsn, err := listen()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	fmt.Println(dsn)
	childRoles[os.Args[1]](l)
	os.Exit(0)
}
