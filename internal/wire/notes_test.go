package wire

import (
	"strings"
	"testing"
)

// A parameter has the value that was reported last, before the end of the start-up and
// after it, and all of them are bounded.
func TestParameterReportedAgain(t *testing.T) {
	var n notes
	set := func(name, value string) error {
		return n.setParameter([]byte(name+"\x00"+value+"\x00"), false)
	}
	want := func(name, value string) {
		t.Helper()
		if got, ok := n.parameter(name); got != value || !ok {
			t.Errorf("%s is %q, %v; want %q", name, got, ok, value)
		}
	}
	for _, settled := range []bool{false, true} {
		if settled {
			n.settleParameters()
			want("a", "2")
		}
		for _, p := range [][2]string{{"a", "1"}, {"b", "a"}, {"a", "2"}, {"", "empty"}} {
			if err := set(p[0], p[1]); err != nil {
				t.Fatal(err)
			}
		}
		want("a", "2")
		want("b", "a")
		want("", "empty")
		if _, ok := n.parameter("2"); ok {
			t.Error("a value is taken for a name")
		}
	}
	if err := set("c", strings.Repeat("x", maxParams)); err == nil {
		t.Error("no bound")
	}
}

// Sessions with the same parameters share them, however they came by them.
func TestParametersAreShared(t *testing.T) {
	var early, late notes
	_ = early.setParameter([]byte("a\x001\x00"), false)
	early.settleParameters()
	late.settleParameters()
	_ = late.setParameter([]byte("a\x001\x00"), false)
	if early.params != late.params {
		t.Error("they are not")
	}
}
