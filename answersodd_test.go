package pgnotify_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// echo answers requests so that the answers tell them apart: a simple query with its
// text, an extended one with its argument. After a number of messages it sends stray ones.
func echo(after int, stray ...[]byte) pgfake.Step {
	return func(c *pgfake.Session) error {
		for sent := 0; ; {
			typ, body, err := c.Message()
			if err != nil {
				return nil
			}
			for _, frame := range echoOf(typ, body) {
				if sent == after {
					frame = slices.Concat(slices.Concat(stray...), frame)
				}
				sent++
				if _, err := c.Write(frame); err != nil {
					return nil
				}
			}
		}
	}
}

func echoOf(typ byte, body []byte) [][]byte {
	switch typ {
	case 'Q':
		return [][]byte{pgfake.Columns("a"), pgfake.Row(strings.TrimRight(string(body), "\x00")), pgfake.Complete("SELECT 1"), pgfake.Ready('I')}
	case 'P':
		return [][]byte{pgfake.Frame('1', "")}
	case 'D':
		return [][]byte{pgfake.Frame('t', "\x00\x01\x00\x00\x00\x19"), pgfake.Columns("a")}
	case 'B':
		rest := body[1+strings.IndexByte(string(body[1:]), 0)+1+4:] // after the names, no formats, one argument
		token := string(rest[4 : 4+binary.BigEndian.Uint32(rest)])
		return [][]byte{pgfake.Frame('2', ""), pgfake.Row(token), pgfake.Complete("SELECT 1")}
	case 'C':
		return [][]byte{pgfake.Frame('3', "")}
	case 'S':
		return [][]byte{pgfake.Ready('I')}
	}
	return nil
}

// strays are messages that have no place in an answer, or only one.
func strays() map[string][]byte {
	list := map[string][]byte{
		"ParameterDescription": pgfake.Frame('t', "\x00\x00"),
		"CopyOutResponse":      pgfake.Frame('H', "\x00\x00\x00"),
		"CopyBothResponse":     pgfake.Frame('W', "\x00\x00\x00"),
		"CopyData":             pgfake.Frame('d', "x"),
		"FunctionCallResponse": pgfake.Frame('V', "\xff\xff\xff\xff"),
		"BackendKeyData":       pgfake.Frame('K', "12345678"),
		"AuthenticationOk":     pgfake.Frame('R', "\x00\x00\x00\x00"),
		"password request":     pgfake.Frame('R', "\x00\x00\x00\x03"),
		"negotiation":          pgfake.Frame('v', "\x00\x00\x00\x00\x00\x00\x00\x00"),
		"ReadyForQuery":        pgfake.Ready('I'),
		"RowDescription":       pgfake.Columns("a"),
		"tag":                  pgfake.Complete("SELECT 1"),
	}
	for _, typ := range "123nscI" {
		list[fmt.Sprintf("%c", typ)] = pgfake.Frame(byte(typ), "")
	}
	return list
}

// O3: whatever comes wherever, no statement gets the answer of another.
func TestStrayMessages(t *testing.T) {
	eachStray(t, func(t *testing.T, stray []byte) {
		for _, extended := range []bool{false, true} {
			for _, active := range []bool{false, true} {
				for after := range 8 {
					fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), echo(after, stray)}, pgfake.Script{pgfake.Greet(), echo(-1)})
					checkStray(t, open(t, fake.DSN()), extended, active)
				}
			}
		}
	})
}

func eachStray(t *testing.T, f func(t *testing.T, stray []byte)) {
	t.Parallel()
	for name, stray := range strays() {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, stray) })
		t.Run(name+" twice", func(t *testing.T) { t.Parallel(); f(t, slices.Concat(stray, stray)) })
	}
}

// checkStray runs statements over a pool of one: each gets its own answer or an error, and
// the session that got something else is not used for long.
func checkStray(t *testing.T, db *sql.DB, extended, active bool) {
	t.Helper()
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
	defer cancel()
	if active {
		s := take(t, db)
		s.pc.Activate()
		s.Close()
	}
	failed := 0
	for i := range 6 {
		want := fmt.Sprintf("select 'token %d'", i)
		query, args := want, []any(nil)
		if extended {
			query, args = "select $1::text", []any{want}
		}
		var got string
		err := db.QueryRowContext(ctx, query, args...).Scan(&got)
		if err != nil {
			failed++
		}
		if ctx.Err() != nil {
			t.Fatalf("extended %v, active %v: it hangs: %v", extended, active, err)
		}
		if err == nil && got != want || err != nil && i > 2 {
			t.Errorf("extended %v, active %v: got %q, want %q (%v)", extended, active, got, want, err)
		}
		if err != nil && !pgnotify.IsDisconnect(err) && !errors.Is(err, pgnotify.ErrNotSupported) {
			t.Errorf("extended %v, active %v: %T %v", extended, active, err, err)
		}
	}
	if failed > 1 {
		t.Errorf("extended %v, active %v: %d statements failed", extended, active, failed)
	}
}

// O3, R2: answers to a simple query that lib/pq would take, or hang over, or take one part
// of for the answer to the next statement.
func TestImpossibleAnswers(t *testing.T) {
	t.Parallel()
	fails := pgfake.Error("ERROR", "42601", "no")
	done, ready := pgfake.Complete("SELECT 1"), pgfake.Ready('I')
	for name, answer := range map[string][][]byte{
		"rows without an end":               {pgfake.Columns("a"), ready},
		"a row without an end":              {pgfake.Columns("a"), pgfake.Row("1"), ready},
		"nothing":                           {ready},
		"a row without a description":       {pgfake.Row("1"), done, ready},
		"a row after the end":               {pgfake.Columns("a"), done, pgfake.Row("1"), ready},
		"a description after an error":      {fails, pgfake.Columns("a"), done, ready},
		"a tag after an error":              {fails, done, ready},
		"a row after an error":              {pgfake.Columns("a"), fails, pgfake.Row("1"), ready},
		"COPY after an error":               {fails, pgfake.CopyIn(1)},
		"COPY to the client after an error": {fails, pgfake.Frame('H', "\x00\x00\x00")},
		"a function's result":               {pgfake.Frame('V', "\x00\x00\x00\x00"), ready},
		"fewer values than columns":         {pgfake.Columns("a", "b"), pgfake.Row("1"), done, ready},
		"more values than columns":          {pgfake.Columns("a"), pgfake.Row("1", "2"), done, ready},
		"a second row of fewer values":      {pgfake.Columns("a", "b"), pgfake.Row("1", "2"), pgfake.Row("1"), done, ready},
		"a row with more behind it":         {pgfake.Columns("a"), pgfake.Frame('D', "\x00\x01\x00\x00\x00\x011more"), done, ready},
		"a long row with more behind it":    {pgfake.Columns("a"), pgfake.Frame('D', "\x00\x01\x00\x00\x00\x011"+strings.Repeat("x", 200_000)), done, ready},
		"a value of length -2":              {pgfake.Columns("a"), pgfake.Frame('D', "\x00\x01\xff\xff\xff\xfe"), done, ready},
		"columns that are missing":          {pgfake.Frame('T', "\x00\x05abc")},
		"columns that are announced":        {pgfake.Frame('T', "\xff\xff")},
		"a column with more behind it":      {pgfake.Frame('T', string(pgfake.Columns("a")[5:])+"more")},
		"a format that is none":             {append(pgfake.Columns("a")[:25:25], 0, 2)},
		"COPY of other formats":             {pgfake.Frame('G', "\x00\x00\x01\x00\x01")},
		"COPY of fewer formats":             {pgfake.Frame('G', "\x00\x00\x02\x00\x00")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, active := range []bool{false, true} {
				fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(answer...), pgfake.Drain()},
					pgfake.Script{pgfake.Greet(), echo(-1)})
				db := open(t, fake.DSN())
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
				err := drain(s.QueryContext(ctx, "select"))
				if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || lost.Reason != pgnotify.ProtocolError {
					t.Errorf("active %v: %T %v", active, err, err)
				}
				cancel()
				s.Close()
				if got := queryValue[string](t, db, "select 2"); got != "select 2" {
					t.Errorf("active %v: afterwards %q", active, got)
				}
			}
		})
	}
}

// R2: rows of a statement that was described earlier.
func TestRowsThatDoNotFitTheStatement(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string][]byte{
		"fewer values": pgfake.Row(),
		"more values":  pgfake.Row("1", "2"),
		"two kinds":    slices.Concat(pgfake.Row("1"), pgfake.Row("1", "2")),
	} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), func(c *pgfake.Session) error {
			for {
				typ, body, err := c.Message()
				if err != nil {
					return nil
				}
				frames := echoOf(typ, body)
				if typ == 'B' {
					frames[1] = rows
				}
				if err := pgfake.Send(frames...)(c); err != nil {
					return err
				}
			}
		}}, pgfake.Script{pgfake.Greet(), echo(-1)})
		db := open(t, fake.DSN())
		err := drain(db.QueryContext(testContext(t), "select $1::text", "x"))
		if lost, ok := asError[*pgnotify.DisconnectError](err); !ok || lost.Reason != pgnotify.ProtocolError {
			t.Errorf("%s: %T %v", name, err, err)
		}
		if got := queryValue[string](t, db, "select $1::text", "y"); got != "y" {
			t.Errorf("%s: afterwards %q", name, got)
		}
	}
}

// lib/pq#1059, lib/pq#1173: some servers answer an empty query with ReadyForQuery alone.
func TestEmptyQueryAnsweredByReadyForQueryAlone(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), func(c *pgfake.Session) error {
		for {
			typ, body, err := c.Message()
			if err != nil {
				return nil
			}
			frames := echoOf(typ, body)
			if typ == 'Q' && string(body) == ";\x00" {
				frames = [][]byte{pgfake.Ready('I')}
			}
			if err := pgfake.Send(frames...)(c); err != nil {
				return err
			}
		}
	}})
	for _, active := range []bool{false, true} {
		db := open(t, fake.DSN())
		s := take(t, db)
		if active {
			s.pc.Activate()
		}
		for range 3 {
			if err := s.PingContext(testContext(t)); err != nil {
				t.Error(err)
			}
			if got := queryValue[string](t, s, "select 1"); got != "select 1" {
				t.Errorf("%q", got)
			}
		}
	}
}
