package pgnotify

import (
	"slices"
	"strings"
	"testing"
)

// tokensOf returns the tokens of a text, each behind a letter for its kind: w(ord), n(ame),
// l(iteral), e(scaped), p(arameter), o(ther), ?(unclear).
func tokensOf(text string, plain bool) (tokens []string) {
	for l := (lexer{text: text, plain: plain}); ; {
		l.next()
		switch l.kind {
		case tokenEnd:
			return tokens
		case tokenUnclear:
			return append(tokens, "?")
		}
		tokens = append(tokens, string("-wnlepo"[l.kind])+l.token)
	}
}

var lexed = []struct {
	text string
	want string // separated by blanks, which are dots here
}{
	{"", ""},
	{" \t\n\f\v\r", ""},
	{"select a1$b, é", "wselect wa1$b o, wé"},
	{"a/* b /* c */ d */e", "wa we"},
	{"/*/ x */ drop */", "wdrop o* o/"},
	{"/**/a/***/b/*/**/*/c", "wa wb wc"},
	{"a/* /* */", "wa ?"},
	{"/*", "?"},
	{"/*/", "?"},
	{"-- a\rb--c\nd--", "wb wd"},
	{"1--2\n-3-/*4*/-5", "o1 o- o3 o- o- o5"},
	{"'a''b'", "la''b"},
	{"'a", "?"},
	{"''", "l"},
	{"'a' 'b'", "la ?"},
	{"'n'\n-- x\n'ow'", "ln ?"},
	{"'a','b'", "la o, lb"},
	{"'a' \"b\"", "la nb"},
	{`'\' , 'x'`, `l\ o, lx`},
	{`e'\'' , 'x'`, `e\' o, lx`},
	{`E'a''\\' || E'b'`, `ea''\\ o| o| lb`},
	{`E'\`, "?"},
	{`E'\'`, "?"},
	{`fooE'\'`, `wfooE l\`},
	{`_e'a'`, "w_e la"},
	{"e", "we"},
	{"u&'n!006Fw' uescape '!'", "en!006Fw wuescape l!"},
	{`U&"a" x`, "?"},
	{"U & 'a'", "wU o& la"},
	{"b'01' , X'1F', n'a'", "l01 o, l1F o, la"},
	{`"a""b" "`, `na""b ?`},
	{`"it's" 'x'`, "nit's lx"},
	{"$1 $23::int", "p1 p23 o: o: wint"},
	{"$$a$b$$", "la$b"},
	{"$x$$y$now$x$", "l$y$now"},
	{"$a$b$a$", "lb"},
	{"a$$b", "wa$$b"},
	{"$a$b", "?"},
	{"$a b", "o$ wa wb"},
	{"$", "o$"},
	{"1into", "o1 winto"},
	{"1.5e10", "o1 o. o5 we10"},
	{"a;b", "wa o; wb"},
	{"\x00", "o\x00"},
}

func TestLexer(t *testing.T) {
	t.Parallel()
	for _, test := range lexed {
		if got := strings.Join(tokensOf(test.text, true), " "); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
	if got := tokensOf(`'a' , 'b\' , 'c'`, false); !slices.Equal(got, []string{"la", "o,", "?"}) {
		t.Errorf("a backslash that may escape: %q", got)
	}
	if got := tokensOf(`"\" $$\$$ , e'\''`, false); !slices.Equal(got, []string{`n\`, `l\`, "o,", `e\'`}) {
		t.Errorf("a backslash that is clear: %q", got)
	}
}

// FuzzLexer: the tokens are the whole text except blanks and comments, and stay the same
// with other comments between them.
func FuzzLexer(f *testing.F) {
	for _, test := range lexed {
		f.Add(test.text, true)
	}
	f.Fuzz(func(t *testing.T, text string, plain bool) {
		var again strings.Builder
		l := lexer{text: text, plain: plain}
		for end := 0; ; {
			blanks := l.pos
			l.next()
			if l.kind == tokenUnclear || l.kind == tokenEnd {
				break
			}
			if l.pos <= end || l.pos > len(text) {
				t.Fatalf("a token ends at %d, the one before it at %d", l.pos, end)
			}
			end = l.pos
			skipped := lexer{text: text, pos: blanks}
			skipped.skipBlanks()
			again.WriteString(text[skipped.pos:l.pos] + "/*'/* $$ */\"*/--'\r")
		}
		got := tokensOf(again.String(), plain)
		if want := tokensOf(text, plain); l.kind == tokenEnd && !slices.Equal(got, want) {
			t.Errorf("%q, with other comments %q", want, got)
		}
		readEffects(text, plain)
	})
}
