package wire_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// O8: what a server says before AuthenticationOk is short and escaped, in errors and in
// notices; what it says after that is as it is.
func TestReportsOfAStranger(t *testing.T) {
	t.Parallel()
	nasty := "\x1b[31m\u202e" + strings.Repeat("\x07é", 4000) + "end"
	fields := func(typ byte) frame {
		return report(typ, "SFATAL", "VFATAL", "C28P01", "M"+nasty, "D"+nasty, "H"+nasty, "n"+nasty, "R"+nasty)
	}
	for _, size := range []int{1, 7, 1000, 1 << 20} {
		cut := func(_, available int) int { return min(size, available) }
		for _, known := range []bool{false, true} {
			heard := newEvents()
			begin := []frame{fields('N')}
			if known {
				begin = []frame{authOK, fields('N')}
			}
			conn := wire.NewConn(newScript(cut, join(append(begin, fields('E'))...)), heard)
			if _, err := conn.Write(startupPacket); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(conn)
			if known {
				got = got[len(authOK):]
			}
			if conn.Authenticated() != known {
				t.Errorf("authenticated is %v", conn.Authenticated())
			}
			failure, err := wire.ParseResponse('E', got[5:])
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*wire.Response{failure, conn.Loss().Error, conn.Loss().Fatal} {
				if r == nil || r.Code != "28P01" || r.Severity != "FATAL" {
					t.Fatalf("%+v", r)
				}
				for _, text := range []string{r.Message, r.Detail, r.Hint, r.Constraint, r.Routine} {
					if shown := isShown(text); shown == known || !known && !strings.HasPrefix(text, `\x1b[31m\u{202e}\x07é`) {
						t.Errorf("authenticated %v: %.100q", known, text)
					}
				}
			}
			conn.Close()
		}
	}
}

// isShown reports whether a text is short and does nothing to a terminal.
func isShown(text string) bool {
	return len(text) <= 2*200+len("…") && utf8.RuneCountInString(text) <= 201 &&
		!strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// C13, O8: the plain text of a server that cannot fork, or of whoever pretends to be one.
func TestPlainText(t *testing.T) {
	t.Parallel()
	const text = "could not fork new process for connection: Cannot allocate memory"
	for _, size := range []int{1, 7, 1 << 20} {
		cut := func(_, available int) int { return min(size, available) }
		for name, c := range map[string]struct{ said, want string }{
			"newline": {"E" + text + "\n\x00", text},
			"zero":    {"E" + text + "\x00", text},
			"end":     {"E" + text, text},
			"more":    {"E" + text + "\x00" + strings.Repeat("x", 1<<20), text},
			"long":    {"E" + text + strings.Repeat("\x1b[31m", 1<<20), text + strings.Repeat(`\x1b[31m`, 16)},
			"no text": {"E    " + strings.Repeat("\x1b[31m", 1<<20), `\x1b[31m`},
		} {
			conn := wire.NewConn(newScript(cut, []byte(c.said)), nobody{})
			if _, err := conn.Write(startupPacket); err != nil {
				t.Fatal(err)
			}
			forwarded, err := io.ReadAll(conn)
			if err == nil || !strings.Contains(err.Error(), `unverified server answered in plain text: "`+c.want) || len(err.Error()) > 300 ||
				strings.Contains(err.Error(), "\x1b") || len(forwarded) != 0 {
				t.Errorf("%s in pieces of %d: %v, and %d bytes for lib/pq", name, size, err, len(forwarded))
			}
			if !errors.Is(conn.Loss().Err, err) {
				t.Errorf("lost by %v", conn.Loss().Err)
			}
			conn.Close()
		}
	}
}
