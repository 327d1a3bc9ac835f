package pgfake

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
)

// AgreeTLS reads the SSLRequest and agrees to it, but takes no part in the handshake.
func AgreeTLS() Step {
	return func(c *Session) error {
		body, err := c.readBody(1 << 16)
		if err != nil {
			return err
		}
		if len(body) != 4 || binary.BigEndian.Uint32(body) != sslRequestCode {
			return errors.New("not an SSLRequest")
		}
		_, err = c.Write([]byte("S"))
		return err
	}
}

// StartTLS agrees to TLS and uses it from then on. Reset does not work after it.
func StartTLS(config *tls.Config) Step {
	return func(c *Session) error {
		if err := AgreeTLS()(c); err != nil {
			return err
		}
		return DirectTLS(config)(c)
	}
}

// DirectTLS uses TLS from the first byte on, as sslnegotiation=direct asks for it.
func DirectTLS(config *tls.Config) Step {
	return func(c *Session) error {
		secure := tls.Server(buffered{c.Conn, c.r}, config)
		if err := secure.Handshake(); err != nil {
			return err
		}
		c.Conn, c.r = secure, bufio.NewReader(secure)
		return nil
	}
}

// A buffered connection has had its first bytes read into r.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
