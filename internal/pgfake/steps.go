package pgfake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// errScriptEnd is the error of a step after which nothing is left to do.
var errScriptEnd = errors.New("end of the script")

// Startup reads the start-up packet, and first refuses TLS if asked for it.
func Startup() Step {
	return func(c *Session) error {
		for {
			body, err := c.readBody(1 << 16)
			if err != nil {
				return err
			}
			if len(body) < 4 {
				return errors.New("the start-up packet is too short")
			}
			if code := binary.BigEndian.Uint32(body); code != sslRequestCode {
				return nil
			}
			if _, err := c.Write([]byte("N")); err != nil {
				return err
			}
		}
	}
}

// Greet reads the start-up packet and lets the session in.
func Greet() Step { return GreetWith(Key) }

// GreetWith is Greet with another cancel key.
func GreetWith(key string) Step { return GreetAs(PID, key) }

// GreetAs is Greet with another process id and another cancel key.
func GreetAs(pid uint32, key string) Step {
	return func(c *Session) error {
		if err := Startup()(c); err != nil {
			return err
		}
		return Send(Frame('R', word(0)), Parameter("server_version", "15.0"),
			Parameter("client_encoding", "UTF8"), Frame('K', word(pid)+key), Ready('I'))(c)
	}
}

// Await reads messages until one of the given type has come.
func Await(typ byte) Step {
	return func(c *Session) error {
		for {
			if got, _, err := c.Message(); err != nil || got == typ {
				return err
			}
		}
	}
}

// Send sends frames, or any bytes.
func Send(frames ...[]byte) Step {
	return func(c *Session) error {
		var all []byte
		for _, f := range frames {
			all = append(all, f...)
		}
		_, err := c.Write(all)
		return err
	}
}

// WaitFor waits until ready is closed, or the test ends.
func WaitFor(ready <-chan struct{}) Step {
	return func(c *Session) error {
		select {
		case <-ready:
			return nil
		case <-c.server.done:
			return errScriptEnd
		}
	}
}

// Hang neither reads nor writes until the test ends.
func Hang() Step {
	return func(c *Session) error {
		<-c.server.done
		return errScriptEnd
	}
}

// Drain reads without answering until the other side closes.
func Drain() Step {
	return func(c *Session) error {
		_, _ = io.Copy(io.Discard, c.r)
		return errScriptEnd
	}
}

// Reset ends the connection with a RST.
func Reset() Step {
	return func(c *Session) error {
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
		return errScriptEnd
	}
}

// Serve answers all requests until the other side closes: a simple query with one row
// of one column, the text "1", an empty query with nothing, and a prepared one, which
// has no parameters, with that row again.
func Serve() Step {
	return func(c *Session) error {
		for {
			typ, body, err := c.Message()
			if err != nil || typ == 'X' {
				return errScriptEnd
			}
			if _, err := c.Write(answer(typ, string(body))); err != nil {
				return err
			}
		}
	}
}

func answer(typ byte, body string) []byte {
	var frames [][]byte
	switch {
	case typ == 'Q' && (body == ";\x00" || body == "\x00"):
		frames = [][]byte{Frame('I', ""), Ready('I')}
	case typ == 'Q':
		frames = [][]byte{Columns("one"), Row("1"), Complete("SELECT 1"), Ready('I')}
	case typ == 'P':
		frames = [][]byte{Frame('1', "")}
	case typ == 'D':
		frames = [][]byte{Frame('t', "\x00\x00"), Columns("one")}
	case typ == 'B':
		frames = [][]byte{Frame('2', "")}
	case typ == 'E':
		frames = [][]byte{Row("1"), Complete("SELECT 1")}
	case typ == 'C':
		frames = [][]byte{Frame('3', "")}
	case typ == 'S':
		frames = [][]byte{Ready('I')}
	}
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	return all
}

// Message reads a message, for a step of the test's own.
func (c *Session) Message() (typ byte, body []byte, err error) {
	if typ, err = c.r.ReadByte(); err == nil {
		body, err = c.readBody(1 << 26)
	}
	return typ, body, err
}

// readBody reads a length word and the bytes that it counts.
func (c *Session) readBody(limit uint32) ([]byte, error) {
	var word [4]byte
	if _, err := io.ReadFull(c.r, word[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(word[:])
	if n < 4 || n > limit {
		return nil, fmt.Errorf("a message of length %d", n)
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(c.r, body)
	return body, err
}
