package faultproxy

import (
	"io"
	"net"
	"sync"
)

// A link is one connection through the proxy. Two goroutines serve it, one for each
// direction; a third waits while a fault is held.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	lost           sync.Once

	mu       sync.Mutex // guards the fields below
	fault    *Fault     // started by a request
	skip     int        // requests to answer before the fault happens
	answered bool       // the server spoke last
	doomed   bool       // the answer to the last request will be lost
	answer   []byte     // what has arrived of that answer
}

const bufferSize = 64 << 10

// passRequests forwards what the client sends.
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
			return // passAnswers closes once it has the server's last words
		}
	}
}

// asked examines what the client has sent, and returns the fault by which its answer
// will be lost, if any.
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

// passAnswers forwards what the server sends, until an answer is to be lost.
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

// said notes what the server has sent, and returns the fault by which it is lost, if
// any.
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

// loseLater makes the fault happen once it is no longer held, and reads what arrives
// until then.
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

// lose makes the fault happen, on the first call only.
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

// drain tells the client that nothing more will come, and reads the rest of its
// request: closing a connection with unread data would reset it.
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
