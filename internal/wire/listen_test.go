package wire_test

import (
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// TestListened plays requests, one a string: the tags of its answer, ERROR, and
// at its end the transaction status.
func TestListened(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		requests []string
		want     bool
	}{
		{"nothing", []string{"SELECT 1; I"}, false},
		{"at once", []string{"LISTEN; I"}, true},
		{"with others", []string{"SELECT 1; LISTEN; LISTEN; I"}, true},
		{"UNLISTEN only", []string{"UNLISTEN; I"}, false},
		{"UNLISTEN after", []string{"LISTEN; I", "UNLISTEN; I"}, true},
		{"other tags", []string{"LISTENING; I", "LISTE; I", "LOAD; I"}, false},

		{"failed", []string{"ERROR; I"}, false},
		{"failed after it", []string{"LISTEN; ERROR; I"}, false},
		{"again after a failure", []string{"LISTEN; ERROR; I", "LISTEN; I"}, true},
		{"failure in another request", []string{"ERROR; I", "LISTEN; I"}, true},

		{"open transaction", []string{"BEGIN; T", "LISTEN; T"}, false},
		{"committed", []string{"BEGIN; T", "LISTEN; T", "COMMIT; I"}, true},
		{"rolled back", []string{"BEGIN; T", "LISTEN; T", "ROLLBACK; I"}, false},
		{"COMMIT of a failed block", []string{"BEGIN; T", "LISTEN; T", "ERROR; E", "ROLLBACK; I"}, false},
		{"COMMIT fails", []string{"BEGIN; T", "LISTEN; T", "ERROR; I"}, false},
		{"rolled back, then at once", []string{"BEGIN; T", "LISTEN; T", "ROLLBACK; I", "LISTEN; I"}, true},
		{"rolled back, then another transaction", []string{"BEGIN; T", "LISTEN; T", "ROLLBACK; I", "BEGIN; T", "COMMIT; I"}, false},

		{"before the savepoint", []string{"BEGIN; T", "LISTEN; T", "SAVEPOINT; T", "ROLLBACK; T", "COMMIT; I"}, true},
		{"after the savepoint", []string{"BEGIN; T", "SAVEPOINT; T", "LISTEN; T", "ROLLBACK; T", "COMMIT; I"}, true}, // may have
		{"savepoint, then rolled back", []string{"BEGIN; T", "LISTEN; T", "ROLLBACK; T", "ROLLBACK; I"}, false},
		{"savepoint after an error", []string{"BEGIN; T", "LISTEN; T", "SAVEPOINT; T", "ERROR; E", "ROLLBACK; T", "COMMIT; I"}, true},
		{"after a savepoint", []string{"BEGIN; T", "SAVEPOINT; T", "ROLLBACK; T", "LISTEN; T", "COMMIT; I"}, true},

		{"in one request", []string{"BEGIN; LISTEN; COMMIT; I"}, true},
		{"committed before a failure", []string{"BEGIN; LISTEN; COMMIT; ERROR; I"}, true},
		{"rolled back in one request", []string{"BEGIN; LISTEN; ROLLBACK; I"}, false},
		{"again in one request", []string{"BEGIN; LISTEN; ROLLBACK; LISTEN; I"}, true},
		{"implicit block rolled back", []string{"LISTEN; ROLLBACK; I"}, false},
		{"implicit block committed", []string{"LISTEN; COMMIT; ERROR; I"}, true},
		{"made a block", []string{"LISTEN; BEGIN; T", "ROLLBACK; I"}, false},
		{"made a block and committed", []string{"LISTEN; BEGIN; T", "COMMIT; I"}, true},
		{"chained", []string{"BEGIN; T", "LISTEN; T", "COMMIT; T", "ROLLBACK; I"}, true},
		{"prepared", []string{"BEGIN; T", "LISTEN; T", "ROLLBACK PREPARED; T", "COMMIT; I"}, true},

		{"in a function", []string{"DO; I", "NOTIFIED; SELECT 1; I"}, true},
		{"heard while idle", []string{"DO; I; NOTIFIED"}, true},
		{"fails while idle", []string{"SELECT 1; I; ERROR", "LISTEN; I"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := wire.NewStream(nobody{}, false)
			if err := s.Feed(join(greeting()...), func([]byte, bool) {}); err != nil {
				t.Fatal(err)
			}
			for _, request := range c.requests {
				s.Ask()
				if err := s.Feed(tags(request), func([]byte, bool) {}); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Notes().Listened; got != c.want {
				t.Errorf("listened %v, want %v", got, c.want)
			}
		})
	}
}

// tags is the answer that TestListened describes in short.
func tags(s string) (answer []byte) {
	for _, word := range strings.Split(s, "; ") {
		switch word {
		case "ERROR":
			answer = append(answer, syntaxErr...)
		case "NOTIFIED":
			answer = append(answer, note("a", "1")...)
		case "I", "T", "E":
			answer = append(answer, newFrame('Z', word)...)
		default:
			answer = append(answer, tag(word)...)
		}
	}
	return answer
}
