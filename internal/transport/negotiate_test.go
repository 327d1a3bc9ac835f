package transport_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// errorResponse is what follows the type byte of an ErrorResponse.
const errorResponse = "\x00\x00\x00\x33SFATAL\x00VFATAL\x00C53300\x00Msorry, too many clients\x00\x00"

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		handle func(net.Conn)
		want   string
	}{
		"plain text error":   {answer("Ecould not fork new process for connection: out of memory\n\x00"), `"could not fork new process for connection: out of memory"`},
		"ErrorResponse":      {answer("E" + errorResponse), `"sorry, too many clients"`},
		"error without text": {answer("E"), "answered with an error"},
		"error, kept open":   {hold("Esorry\x00"), `"sorry"`},
		"hostile error":      {answer("E\x1b[2Jhello\u202e\x07 " + strings.Repeat("x", 10000)), `"\x1b[2Jhello\u{202e}\x07 x`},
		"HTTP":               {answer("HTTP/1.1 400 Bad Request\r\n\r\n"), "0x48"},
		"lower case":         {answer("s"), "0x73"},
		"end":                {answer(""), "closed the connection during TLS negotiation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, tt.handle)
			// Not even sslmode=prefer goes on after this.
			err := refused(t, e, mustPolicy(t, pq.Config{SSLMode: "prefer"}, nil))
			var failed *transport.Error
			if !errors.As(err, &failed) || failed.Phase != transport.PhaseRequest {
				t.Errorf("got %#v", err)
			}
			text := err.Error()
			if !strings.HasPrefix(text, "pgnotify: TLS with "+e.String()+": ") || !strings.Contains(text, tt.want) || len(text) > 500 {
				t.Errorf("got %q", text)
			}
		})
	}
}

func TestRequiredButNone(t *testing.T) {
	t.Parallel()
	e := serve(t, hold("N"))
	for _, mode := range []pq.SSLMode{"require", "verify-ca", "verify-full"} {
		err := refused(t, e, mustPolicy(t, pq.Config{SSLMode: mode}, nil))
		if !errors.Is(err, pq.ErrSSLNotSupported) || !strings.Contains(err.Error(), "sslmode="+string(mode)) {
			t.Errorf("got %v", err)
		}
	}
}

// TestInjectedBytes puts bytes of a third party behind the server's answer. They
// must not be taken for anything said under TLS.
func TestInjectedBytes(t *testing.T) {
	t.Parallel()
	secure := speakDirect(serverConfig(certs().good), nil)
	e := serve(t, func(conn net.Conn) {
		if readRequest(conn) == nil {
			io.WriteString(conn, "SR\x00\x00\x00\x08\x00\x00\x00\x00")
			secure(conn)
		}
	})
	err := refused(t, e, mustPolicy(t, pq.Config{SSLMode: "require"}, nil))
	var failed *transport.Error
	if !errors.As(err, &failed) || failed.Phase != transport.PhaseHandshake {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsReadAhead checks that after N the next byte is the protocol's.
func TestNothingIsReadAhead(t *testing.T) {
	t.Parallel()
	conn := open(t, serve(t, hold("Nnext")), mustPolicy(t, pq.Config{SSLMode: "prefer"}, nil))
	var got [4]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "next" {
		t.Errorf("read %q, %v", got[:], err)
	}
}

func TestServerClosesInHandshake(t *testing.T) {
	t.Parallel()
	e := serve(t, func(conn net.Conn) {
		if readRequest(conn) == nil {
			io.WriteString(conn, "S")
			conn.Read(make([]byte, 1<<16))
		}
	})
	err := refused(t, e, mustPolicy(t, pq.Config{SSLMode: "require"}, nil))
	if !strings.Contains(err.Error(), "closed the connection during the handshake") {
		t.Errorf("got %v", err)
	}
}

func FuzzErrorText(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", "\x00\x00\x00\x00", "could not fork\n\x00rest", errorResponse,
		errorResponse[:20], "\x00\x00\x00\xffM", "\xff\xfe", "\x1b[31m", strings.Repeat("é", 300),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := transport.ErrorText(raw)
		if !utf8.ValidString(text) || utf8.RuneCountInString(text) > 201 {
			t.Errorf("got %q", text)
		}
		for _, r := range text {
			if !unicode.IsPrint(r) {
				t.Errorf("%q is in %q", r, text)
			}
		}
	})
}
