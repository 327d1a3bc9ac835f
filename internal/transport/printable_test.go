package transport_test

import (
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                         "",
		`database "d" \ missing`:   `database "d" \ missing`,
		"Größe 日本語 🐘":              "Größe 日本語 🐘",
		"a\x1b[31mb\r\n\t\x00\x7f": `a\x1b[31mb\x0d\x0a\x09\x00\x7f`,
		"\u202egnp.exe\u009b":      `\u{202e}gnp.exe\u{9b}`,
		"\xff\xe4x":                `\xff\xe4x`,
		strings.Repeat("é", 51):    strings.Repeat("é", 50) + "…",
		strings.Repeat("é", 50):    strings.Repeat("é", 50),
		strings.Repeat("\x01", 13): strings.Repeat(`\x01`, 12) + "…",
	} {
		if got := transport.Printable([]byte(in), 50); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
