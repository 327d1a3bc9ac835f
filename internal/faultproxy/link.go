package faultproxy

import (
	"io"
	"net"
	"sync"
)

// A link is one connection through the proxy. Two goroutines serve it, one for
// each direction, and a third waits where a fault is held.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	lost           sync.Once

	mu       sync.Mutex // guards the fields below
	fault    *Fault     // that a request has started
	skip     int        // requests to be answered before it happens
	answered bool       // the server spoke last
	doomed   bool       // the answer to the last request is to be lost
	answer   []byte     // what has come of it
}

const bufferSize = 64 << 10

// passRequests passes on what the client says.
func (l *link) passRequests() {
	in, buf := newReader(l.client), make([]byte, bufferSize)
	for {
		n, err := in.look(buf)
		if err != nil {
			l.close(false)
			return
		}
		f := l.asked(buf[:n])
		if in.leave = f != nil && f.Reset; in.take(n) != nil {
			l.close(false)
			return
		}
		if f != nil && f.Unsent {
			l.lose(f)
			return
		}
		if _, err := l.server.Write(buf[:n]); err != nil {
			return // passAnswers closes, when it has the server's last words
		}
	}
}

// asked looks at what the client has said, and returns the fault by which the
// answer to it is lost.
func (l *link) asked(request []byte) *Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doomed {
		return l.fault
	}
	if l.fault == nil {
		if l.fault = l.proxy.claim(request); l.fault == nil {
			return nil
		}
		l.skip = l.fault.Skip
	} else if l.answered {
		l.skip--
	}
	l.answered = false
	if l.skip > 0 {
		return nil
	}
	l.doomed = true
	return l.fault
}

// passAnswers passes on what the server says, until it is to be lost.
func (l *link) passAnswers() {
	buf := make([]byte, bufferSize)
	for {
		n, err := l.server.Read(buf)
		if f := l.said(buf[:n]); f != nil {
			l.loseLater(f, buf)
			return
		}
		if n > 0 {
			if _, err := l.client.Write(buf[:n]); err != nil {
				l.close(false)
				return
			}
		}
		if err != nil {
			l.close(false)
			return
		}
	}
}

// said notes what the server has said, and returns the fault by which it is
// lost.
func (l *link) said(answer []byte) *Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.doomed {
		l.answered = l.answered || len(answer) > 0
		return nil
	}
	l.answer = append(l.answer, answer...)
	return l.fault
}

// loseLater has the fault happen when it is no longer held, and takes in what
// comes until then.
func (l *link) loseLater(f *Fault, buf []byte) {
	if f.Hold == nil {
		l.lose(f)
		return
	}
	l.proxy.tasks.Go(func() { // ends with the test at the latest; joined by the proxy's close
		select {
		case <-f.Hold:
		case <-l.proxy.done:
		}
		l.lose(f)
	})
	for {
		n, err := l.server.Read(buf)
		l.said(buf[:n])
		if err != nil {
			return
		}
	}
}

// lose has the fault happen, the first time that it is called.
func (l *link) lose(f *Fault) {
	l.lost.Do(func() {
		l.mu.Lock()
		kept := f.cut(l.answer)
		l.mu.Unlock()
		_, _ = l.client.Write(kept)
		l.proxy.count()
		if f.Unsent && !f.Reset {
			l.drain()
		}
		l.close(f.Reset)
	})
}

// drain tells the client that nothing more comes, and takes the rest of its
// request: a connection that is closed with something unread is reset.
func (l *link) drain() {
	half, ok := l.client.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, l.client)
	}
}

func (l *link) close(reset bool) {
	if tcp, ok := l.client.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	l.client.Close()
	l.server.Close()
	l.proxy.remove(l)
}
