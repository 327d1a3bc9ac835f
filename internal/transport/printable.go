package transport

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns text, or the beginning of it, in at most so many characters. What a
// terminal or a log could obey is escaped, as is what is not valid UTF-8: text may come
// from a peer that is not who it should be.
func Printable(text []byte, most int) string {
	var b strings.Builder
	for n := 0; len(text) > 0; {
		r, size := utf8.DecodeRune(text)
		next := string(text[:size])
		switch {
		case r == utf8.RuneError && size == 1:
			next = fmt.Sprintf(`\x%02x`, text[0])
		case unicode.IsPrint(r):
		case r < utf8.RuneSelf:
			next = fmt.Sprintf(`\x%02x`, r)
		default:
			next = fmt.Sprintf(`\u{%x}`, r)
		}
		if n += utf8.RuneCountInString(next); n > most {
			return b.String() + "…"
		}
		b.WriteString(next)
		text = text[size:]
	}
	return b.String()
}
