package pgnotify

import "strings"

// A lexer splits a query into tokens as the server's scanner does (scan.l). It skips
// blanks and comments, and allocates nothing. With a text it stands at the beginning.
type lexer struct {
	text  string
	plain bool // a backslash in '…' is a character: standard_conforming_strings is on

	pos   int       // end of the token
	kind  tokenKind // of the token
	token string    // its text; without the quotes, or the dollar sign of a parameter
}

type tokenKind uint8

const (
	tokenNone      tokenKind = iota // the beginning
	tokenWord                       // a key word or a name, in any letter case
	tokenName                       // "…"
	tokenLiteral                    // '…', B'…', X'…', N'…', E'…' without backslashes, $tag$…$tag$
	tokenEscaped                    // U&'…', or E'…' with backslashes
	tokenParameter                  // $1
	tokenOther                      // digits, or any other character
	tokenEnd                        // the end of the text
	tokenUnclear                    // the rest cannot be read with certainty; it stays the token
)

// next reads the next token. Unclear is what has no end, U&"…", a backslash of which
// plain does not say what it means, and a literal that may continue the one before it.
func (l *lexer) next() {
	before := l.kind
	if before == tokenUnclear {
		return
	}
	if l.pos < len(l.text) && is(l.text[l.pos], skipped) && !l.skipBlanks() {
		l.kind = tokenUnclear
		return
	}
	l.read()
	if isLiteral(before) && isLiteral(l.kind) {
		l.kind = tokenUnclear
	}
}

func isLiteral(k tokenKind) bool { return k == tokenLiteral || k == tokenEscaped }

// read reads the token that begins at pos.
func (l *lexer) read() {
	rest := l.text[l.pos:]
	if rest == "" {
		l.accept(tokenEnd, 0, 0, 0)
		return
	}
	switch c := rest[0]; {
	case is(c, wordStart):
		l.readWord(rest)
	case c == '\'':
		l.readQuoted(tokenLiteral, 1)
	case c == '"':
		l.readQuoted(tokenName, 1)
	case c == '$':
		l.readDollar(rest)
	case is(c, digit):
		l.accept(tokenOther, 0, count(rest, digit), 0)
	default:
		l.accept(tokenOther, 0, 1, 0)
	}
}

// accept takes a token of size bytes between a prefix and a suffix.
func (l *lexer) accept(kind tokenKind, prefix, size, suffix int) {
	from := l.pos + prefix
	l.kind, l.token, l.pos = kind, l.text[from:from+size], from+size+suffix
}

// readWord reads a word, or the literal of which a letter is the prefix.
func (l *lexer) readWord(rest string) {
	n := count(rest, wordPart)
	if n == 1 && len(rest) > 2 {
		switch letter := rest[0] | 0x20; {
		case letter == 'e' && rest[1] == '\'':
			l.readQuoted(tokenEscaped, 2)
			return
		case (letter == 'b' || letter == 'x' || letter == 'n') && rest[1] == '\'':
			l.readQuoted(tokenLiteral, 2)
			return
		case letter == 'u' && rest[1] == '&' && rest[2] == '\'':
			l.readQuoted(tokenEscaped, 3)
			return
		case letter == 'u' && rest[1] == '&' && rest[2] == '"':
			l.kind = tokenUnclear
			return
		}
	}
	l.accept(tokenWord, 0, n, 0)
}

// readQuoted reads what stands in quotes, behind a prefix that ends with the first quote.
func (l *lexer) readQuoted(kind tokenKind, prefix int) {
	from := l.pos + prefix
	escapes := kind == tokenEscaped && prefix == len("E'")
	size := quotedLen(l.text[from:], l.text[from-1], escapes)
	if size < 0 {
		l.kind = tokenUnclear
		return
	}
	l.accept(kind, prefix, size, 1)
	switch backslash := strings.IndexByte(l.token, '\\') >= 0; {
	case kind == tokenLiteral && backslash && !l.plain:
		l.kind = tokenUnclear
	case escapes && !backslash:
		l.kind = tokenLiteral
	}
}

// quotedLen returns the length of what stands before the closing quote, or -1. Two quotes
// are not the closing one; nor is one behind a backslash that escapes it.
func quotedLen(text string, quote byte, escapes bool) int {
	for at := 0; at < len(text); at++ {
		if !escapes {
			n := strings.IndexByte(text[at:], quote)
			if n < 0 {
				return -1
			}
			at += n
		}
		switch {
		case escapes && text[at] == '\\':
			at++
		case text[at] == quote && at+1 < len(text) && text[at+1] == quote:
			at++
		case text[at] == quote:
			return at
		}
	}
	return -1
}

// readDollar reads $1, $tag$…$tag$, or a lone dollar sign.
func (l *lexer) readDollar(rest string) {
	if n := count(rest[1:], digit); n > 0 {
		l.accept(tokenParameter, 1, n, 0)
		return
	}
	n := 1 + count(rest[1:], tagPart)
	if n == len(rest) || rest[n] != '$' {
		l.accept(tokenOther, 0, 1, 0)
		return
	}
	tag := rest[:n+1]
	if size := strings.Index(rest[len(tag):], tag); size >= 0 {
		l.accept(tokenLiteral, len(tag), size, len(tag))
	} else {
		l.kind = tokenUnclear
	}
}

// skipBlanks skips blanks and comments. It reports false for a comment without an end.
func (l *lexer) skipBlanks() bool {
	for l.pos < len(l.text) {
		switch rest := l.text[l.pos:]; {
		case !is(rest[0], skipped):
			return true
		case is(rest[0], blank):
			l.pos++
		case strings.HasPrefix(rest, "--"):
			n := strings.IndexAny(rest, "\r\n")
			if n < 0 {
				n = len(rest)
			}
			l.pos += n
		case strings.HasPrefix(rest, "/*"):
			n := commentLen(rest)
			if n < 0 {
				return false
			}
			l.pos += n
		default:
			return true
		}
	}
	return true
}

// commentLen returns the length of the comment at the beginning of text, or -1 if it has
// no end. Comments nest.
func commentLen(text string) int {
	for at, depth := 0, 0; at+1 < len(text); at++ {
		switch text[at : at+2] {
		case "/*":
			depth++
			at++
		case "*/":
			depth--
			at++
		}
		if depth == 0 {
			return at + 1
		}
	}
	return -1
}

// The kinds of characters, as bits.
const (
	blank   = 1 << iota
	skipped // blanks, and what comments begin with
	digit
	letter
	wordStart
	wordPart
	tagPart // of $tag$, except that a digit is not the first
)

var characters = func() (kinds [256]uint8) {
	for c := range kinds {
		switch {
		case c == ' ', c >= '\t' && c <= '\r':
			kinds[c] = blank | skipped
		case c == '-', c == '/':
			kinds[c] = skipped
		case c >= '0' && c <= '9':
			kinds[c] = digit | wordPart | tagPart
		case c|0x20 >= 'a' && c|0x20 <= 'z':
			kinds[c] = letter | wordStart | wordPart | tagPart
		case c == '_', c >= 0x80:
			kinds[c] = wordStart | wordPart | tagPart
		case c == '$':
			kinds[c] = wordPart
		}
	}
	return kinds
}()

func is(c byte, kind uint8) bool { return characters[c]&kind != 0 }

// count returns how many of the first characters of text are of a kind.
func count(text string, kind uint8) int {
	for i := range len(text) {
		if !is(text[i], kind) {
			return i
		}
	}
	return len(text)
}
