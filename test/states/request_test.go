package states_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
)

// A token stands for one call of a program. It is part of the call's statements, or of
// their arguments, and of all rows and numbers that the server answers with.
type token int64

func (k token) String() string { return "k" + strconv.FormatInt(int64(k), 10) }

// A request is what one call sends: one or more statements.
type request struct {
	token  token
	text   string
	args   []any
	single bool // one statement
	breaks bool // a COPY, which is an error where it stands
}

// Sizes of results. Most are small, so that there are many.
var (
	rowCounts = []int{0, 1, 1, 2, 3, 5, 20, 200}
	rowSizes  = []int{0, 0, 0, 3, 3, 50, 700, 9000}
)

// size returns the size of rows; few are large.
func size(dice *rand.Rand) int {
	if dice.IntN(50) == 0 {
		return 200_000
	}
	return rowSizes[dice.IntN(len(rowSizes))]
}

// selectText returns a SELECT of what a literal or a parameter says.
func selectText(what string, rows, size int) string {
	if rows*size > 1<<20 {
		rows = 2
	}
	return fmt.Sprintf("SELECT %s, %d, %d", what, rows, size)
}

// preparable returns one of some statements with a parameter: few, so that they recur.
func preparable(dice *rand.Rand) string {
	class := dice.IntN(16)
	if class < 4 {
		return fmt.Sprintf("INSERT INTO t%d VALUES ($1)", class)
	}
	return selectText("$1", rowCounts[class%len(rowCounts)], rowSizes[class/3])
}

func newRequest(k token, dice *rand.Rand) request {
	r := request{token: k, single: true}
	literal := "'" + k.String() + "'"
	one := func() string {
		if dice.IntN(3) == 0 {
			return "INSERT INTO t VALUES (" + literal + ")"
		}
		return selectText(literal, rowCounts[dice.IntN(len(rowCounts))], size(dice))
	}
	switch n := dice.IntN(20); {
	case n < 8:
		r.text, r.args = preparable(dice), []any{k.String()}
	case n < 14:
		r.text = one()
	default:
		r.single = false
		statements := []string{one()}
		for range dice.IntN(3) {
			statements = append(statements, one())
		}
		if dice.IntN(6) == 0 {
			r.breaks = true
			direction := []string{"FROM STDIN", "TO STDOUT"}[dice.IntN(2)]
			at := dice.IntN(len(statements) + 1)
			statements = append(statements[:at:at], append([]string{fmt.Sprintf("COPY %q %s", k, direction)}, statements[at:]...)...)
		}
		r.text = strings.Join(statements, "; ")
	}
	return r
}

// A statement is one of a request, as the server understands it.
type statement struct {
	verb       string
	token      token // 0: that of the argument, or none
	rows, size int
	params     int
	channel    string // of LISTEN and UNLISTEN
}

var (
	selectForm = regexp.MustCompile(`^SELECT (?:'k(\d+)'|\$1), (\d+), (\d+)$`)
	insertForm = regexp.MustCompile(`^INSERT INTO t\d* VALUES \((?:'k(\d+)'|\$1)\)$`)
	copyForm   = regexp.MustCompile(`^COPY "k(\d+)".* (FROM STDIN|TO STDOUT)$`)
	listenForm = regexp.MustCompile(`^(LISTEN|UNLISTEN) (?:"(\w+)"|\*)$`)
	tokenForm  = regexp.MustCompile(`\bk(\d+)\b`)
)

// parse returns the statements of a text.
func parse(text string) (all []statement) {
	for _, one := range strings.Split(text, ";") {
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, parseOne(one))
		}
	}
	return all
}

func parseOne(text string) statement {
	if m := selectForm.FindStringSubmatch(text); m != nil {
		return statement{verb: "SELECT", token: toToken(m[1]), rows: toInt(m[2]), size: toInt(m[3]), params: strings.Count(text, "$")}
	}
	if m := insertForm.FindStringSubmatch(text); m != nil {
		return statement{verb: "INSERT", token: toToken(m[1]), params: strings.Count(text, "$")}
	}
	if m := copyForm.FindStringSubmatch(text); m != nil {
		return statement{verb: "COPY " + m[2], token: toToken(m[1])}
	}
	if m := listenForm.FindStringSubmatch(text); m != nil {
		return statement{verb: m[1], channel: m[2]}
	}
	if strings.Contains(text, "pg_listening_channels") {
		return statement{verb: "heartbeat"}
	}
	if strings.HasPrefix(text, "ROLLBACK TO") {
		return statement{verb: "ROLLBACK TO"}
	}
	verb, _, _ := strings.Cut(text, " ")
	return statement{verb: strings.ToUpper(verb)}
}

// tokenOf returns the first token in a text, 0 if there is none.
func tokenOf(text string) token {
	if m := tokenForm.FindStringSubmatch(text); m != nil {
		return toToken(m[1])
	}
	return 0
}

func toInt(digits string) int {
	n, _ := strconv.Atoi(digits) // the patterns let nothing else through
	return n
}

func toToken(digits string) token { return token(toInt(digits)) }
