package pgnotify_test

import (
	"crypto/tls"
	"io"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// newEavesdropper is newValve for a test that listens to what clients say: if they speak
// TLS, it ends in the valve, and the valve speaks TLS to the server.
func newEavesdropper(t testing.TB, dsn string) (*valve, func(*pgnotify.Config)) {
	t.Helper()
	v, option := newValve(t, dsn)
	if !strings.Contains(dsn, "sslmode=verify-full") {
		return v, option
	}
	ours := fakeTLS(t, nil)
	v.ends = func(p *pipe) error { return p.endTLS(ours) } // before the first client comes
	return v, func(c *pgnotify.Config) {
		option(c)
		c.TLSConfig = &tls.Config{InsecureSkipVerify: true} // the valve is not who the server is
	}
}

// endTLS agrees to TLS with the client, and asks the server for it.
func (p *pipe) endTLS(ours *tls.Config) error {
	request := make([]byte, 8)
	if _, err := io.ReadFull(p.client, request); err != nil {
		return err
	}
	if _, err := p.server.Write(request); err != nil {
		return err
	}
	agreed := make([]byte, 1)
	if _, err := io.ReadFull(p.server, agreed); err != nil {
		return err
	}
	if _, err := p.client.Write(agreed); err != nil {
		return err
	}
	p.said, p.answered = tls.Server(p.client, ours), tls.Client(p.server, &tls.Config{InsecureSkipVerify: true})
	return nil
}

// listensTo has what is said over a valve searched for LISTEN of channels whose names
// begin with prefix. The function returns how many there were.
func listensTo(v *valve, prefix string) func() int {
	var said collector[string]
	v.listen(func(request []byte) { said.add(string(request)) })
	return func() int {
		all := strings.Join(said.all(), "")
		return strings.Count(all, `LISTEN "`+prefix) - strings.Count(all, `UNLISTEN "`+prefix)
	}
}
