package wire_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// TestClip shortens reports with long fields: what is kept is valid, and within
// what lib/pq reads; the other fields stay.
func TestClip(t *testing.T) {
	t.Parallel()
	short := wire.Response{
		Severity: "FEHLER", SeverityNonLocalized: "ERROR", Code: "XX000", Message: "m",
		Detail: "d", Hint: "h", Position: "1", InternalPosition: "2", InternalQuery: "q", Where: "w",
		Schema: "s", Table: "t", Column: "c", DataTypeName: "dt", Constraint: "n",
		File: "a.c", Line: "12", Routine: "r",
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name   string
		change func(*wire.Response)
		whole  bool // nothing is cut
	}{
		{"all short", func(*wire.Response) {}, true},
		{"message", func(r *wire.Response) { r.Message = long(1 << 20) }, false},
		{"message of two bytes a rune", func(r *wire.Response) { r.Message = strings.Repeat("é", 1<<20) }, false},
		{"message of three", func(r *wire.Response) { r.Message = strings.Repeat("€", 1<<20) }, false},
		{"message of four", func(r *wire.Response) { r.Message = strings.Repeat("😀", 1<<20) }, false},
		{"message of four, moved", func(r *wire.Response) { r.Message = "abc" + strings.Repeat("😀", 1<<20) }, false},
		{"detail", func(r *wire.Response) { r.Detail = long(1 << 20) }, false},
		{"two", func(r *wire.Response) { r.Message, r.Detail = long(1<<20), long(1<<20) }, false},
		{"many", func(r *wire.Response) {
			r.Message, r.Detail, r.Hint, r.InternalQuery, r.Where = long(1<<20), long(1<<20), long(1<<20), long(1<<20), long(1<<20)
		}, false},
		{"all but the first three", func(r *wire.Response) {
			for _, f := range responseFields(r)[3:] {
				*f = long(600 << 10)
			}
		}, false},
	} {
		for _, typ := range []byte("EN") {
			t.Run(fmt.Sprintf("%s/%c", c.name, typ), func(t *testing.T) {
				t.Parallel()
				in := short
				c.change(&in)
				body := responseBody(&in)
				out, err := wire.Clip(typ, body, len(body))
				if err != nil {
					t.Fatal(err)
				}
				if typ == 'E' && len(out) > wire.MaxErrorBody || len(out) > 1<<20+1 {
					t.Errorf("%d bytes are left", len(out))
				}
				if c.whole && string(out) != string(body) {
					t.Errorf("%q became %q", body, out)
				}
				pieces, err := wire.Clip(typ, body, 77)
				if err != nil || string(pieces) != string(out) {
					t.Errorf("in pieces it gives something else: %v", err)
				}
				got, err := wire.ParseResponse(typ, out)
				if err != nil {
					t.Fatal(err)
				}
				checkClipped(t, got, &in)
			})
		}
	}
}

func checkClipped(t *testing.T, got, in *wire.Response) {
	t.Helper()
	for i, f := range responseFields(got) {
		want := *responseFields(in)[i]
		if *f == want {
			continue
		}
		kept, cut := strings.CutSuffix(*f, "…")
		if !cut || !strings.HasPrefix(want, kept) || len(want) < 100 {
			t.Errorf("field %d of %d bytes became %q of %d bytes", i, len(want), shown([]byte(*f)), len(*f))
		}
		if !utf8.ValidString(*f) {
			t.Errorf("field %d is cut within a rune: %q", i, (*f)[len(*f)-8:])
		}
		if len(kept) < 100 {
			t.Errorf("field %d keeps %d bytes only", i, len(kept))
		}
	}
}

// responseFields are all fields but the code, in the order of the server.
func responseFields(r *wire.Response) []*string {
	return []*string{
		&r.Severity, &r.SeverityNonLocalized, (*string)(&r.Code), &r.Message, &r.Detail, &r.Hint, &r.Position, &r.InternalPosition,
		&r.InternalQuery, &r.Where, &r.Schema, &r.Table, &r.Column, &r.DataTypeName,
		&r.Constraint, &r.File, &r.Line, &r.Routine,
	}
}

// responseBody is a message of these fields.
func responseBody(r *wire.Response) (body []byte) {
	for i, f := range responseFields(r) {
		body = append(body, "SVCMDHPpqWstcdnFLR"[i])
		body = append(append(body, *f...), 0)
	}
	return append(body, 0)
}

// TestClipManyFields: more fields than the protocol has are dropped, the first
// stay.
func TestClipManyFields(t *testing.T) {
	t.Parallel()
	for _, typ := range []byte("EN") {
		body := "SERROR\x00C42601\x00Mmessage\x00" + strings.Repeat("?"+strings.Repeat("v", 50)+"\x00", 100_000) + "\x00"
		out, err := wire.Clip(typ, []byte(body), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if typ == 'E' && len(out) > wire.MaxErrorBody || len(out) > 1<<20+1 {
			t.Errorf("%c: %d bytes are left", typ, len(out))
		}
		r, err := wire.ParseResponse(typ, out)
		if err != nil || r.Severity != "ERROR" || r.Code != "42601" || r.Message != "message" {
			t.Errorf("%c: %+v, %v", typ, r, err)
		}
	}
}

// TestClipBounds shortens errors around the length from which it is done.
func TestClipBounds(t *testing.T) {
	t.Parallel()
	for n := wire.MaxErrorBody - 40; n < wire.MaxErrorBody+40; n++ {
		long := report('E', "SERROR", "VERROR", "CXX000", "M"+strings.Repeat("x", n-33), "Hhint")
		s := wire.NewStream(nobody{}, true)
		var got []byte
		if err := s.Feed(join(long, idle), func(b []byte, _ bool) { got = append(got, b...) }); err != nil {
			t.Fatal(err)
		}
		body := got[5 : len(got)-len(idle)]
		if len(body) > wire.MaxErrorBody {
			t.Errorf("a body of %d bytes is forwarded with %d", len(long)-5, len(body))
		}
		if r, err := wire.ParseResponse('E', body); err != nil || r.Hint != "hint" || string(r.Code) != "XX000" {
			t.Errorf("%d: %+v, %v", n, r, err)
		}
	}
}
