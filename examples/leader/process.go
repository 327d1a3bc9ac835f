package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"
)

// A process is a candidate in a process of its own, which is this program again.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when all that it said was read
}

// word is a line that a process has said.
type word struct {
	text string
	at   time.Time
}

// launch starts a candidate, whose words go to heard. It ends with ctx, or when it is
// stopped.
func launch(ctx context.Context, name, dsn string, heard chan<- word) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, self, "-name", name, "-for", "1m") // not for ever, should we be killed
	p.cmd.Env = append(os.Environ(), "PGNOTIFY_DSN="+dsn)
	p.cmd.Stderr = os.Stderr
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.Cancel = p.interrupt
	words, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(words, heard) // ends with the process
	return p, nil
}

func (p *process) read(words io.Reader, heard chan<- word) {
	defer close(p.done)
	for lines := bufio.NewScanner(words); lines.Scan(); {
		heard <- word{lines.Text(), time.Now()}
	}
}

// interrupt sends Ctrl-C. Windows cannot send it to another process; there it kills.
func (p *process) interrupt() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err == nil || errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.cmd.Process.Kill()
}

// Close ends the process and waits for it, however it ends.
func (p *process) Close() error {
	_ = p.interrupt()
	<-p.done
	_ = p.cmd.Wait()
	return nil
}
