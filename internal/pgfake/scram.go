package pgfake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// AskSCRAM asks for SCRAM-SHA-256 authentication. end is what follows the salt in the
// server's first message, usually "i=" and the number of iterations that the client has
// to compute. The step ends once the request is sent.
func AskSCRAM(end string) Step {
	return func(c *Session) error {
		if _, err := c.Write(Frame('R', word(10)+"SCRAM-SHA-256\x00\x00")); err != nil {
			return err
		}
		typ, body, err := c.Message()
		if err != nil {
			return err
		}
		mechanism, rest, _ := bytes.Cut(body, []byte{0})
		if typ != 'p' || string(mechanism) != "SCRAM-SHA-256" || len(rest) < 4 ||
			int(binary.BigEndian.Uint32(rest)) != len(rest)-4 {
			return errors.New("not the beginning of SCRAM-SHA-256")
		}
		_, nonce, found := bytes.Cut(rest, []byte(",r="))
		if !found {
			return errors.New("no nonce")
		}
		_, err = c.Write(Frame('R', word(11)+fmt.Sprintf("r=%smore,s=c2FsdA==,%s", nonce, end)))
		return err
	}
}
