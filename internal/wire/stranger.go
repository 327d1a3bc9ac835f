package wire

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// Until the server has said AuthenticationOk it may be anybody. What it says until then
// is shortened and escaped before anyone reads it.

// strangerField is the most characters of a field, or of a text, that are kept.
const strangerField = 200

// A plainTextError is what a server says that cannot start a process for the session. It
// does not come under TLS.
type plainTextError struct{ text []byte }

func (e *plainTextError) Error() string {
	return fmt.Sprintf(`the unverified server answered in plain text: "%s"`, transport.Printable(e.text, strangerField))
}

// plainText reads the plain text at c, which ends with a NUL, after some length, or with
// the stream.
func (s *scanner) plainText() error {
	text, _, whole := bytes.Cut(s.buf[s.c+1:s.w], []byte{0})
	if !whole && len(text) < strangerField {
		s.want = 1 + strangerField
		return nil
	}
	return &plainTextError{bytes.Clone(bytes.TrimSpace(text))}
}

// broken returns the error of a stream that has ended because of err.
func (s *scanner) broken(err error) error {
	if !s.plain || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return &plainTextError{bytes.Clone(bytes.TrimSpace(s.buf[s.c+1 : s.w]))}
}

// Authenticated reports whether the server has said AuthenticationOk.
func (c *Conn) Authenticated() bool { return c.notes.authenticated.Load() }
