package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A sender counts up what it sends over each of its channels, for ledgers, and
// keeps it in a table, which knows what was sent where an error leaves it open.
type sender struct {
	db       *sql.DB
	table    string
	channels []string
	begun    []atomic.Int64 // of each channel, the last number that was sent, or was about to be
}

func newSender(t testing.TB, dsn string, channels int) *sender {
	t.Helper()
	s := &sender{table: uniqueName("sent"), begun: make([]atomic.Int64, channels)}
	// A number that was heard of must not vanish from the table with a crash.
	s.db = open(t, dsn+" options='-c synchronous_commit=on'")
	mustExec(t, s.db, "create table "+s.table+" (channel int, number bigint, primary key (channel, number))")
	for range channels {
		s.channels = append(s.channels, uniqueName("numbers"))
	}
	return s
}

// ledger returns one for who has just subscribed to some of the channels.
func (s *sender) ledger(name string, channels ...string) *ledger {
	base := make([]int64, len(s.channels))
	for i, channel := range s.channels {
		if base[i] = notWanted; slices.Contains(channels, channel) {
			base[i] = s.begun[i].Load()
		}
	}
	return newLedger(name, s.channels, base)
}

// send sends numbers over some of the channels, which are its own, until ctx ends.
func (s *sender) send(ctx context.Context, dice *rand.Rand, own ...int) {
	for rest(ctx, between(dice, time.Millisecond, 15*time.Millisecond)) {
		count := 1 + dice.IntN(5)
		if dice.IntN(300) == 0 {
			count = 100 + dice.IntN(2000)
		}
		channel := own[dice.IntN(len(own))]
		if s.sendNumbers(channel, count, strings.Repeat("x", dice.IntN(100))) != nil {
			rest(ctx, 20*time.Millisecond)
		}
	}
}

// sendNumbers sends the next numbers of a channel in one transaction. Those whose
// fate an error leaves unknown are in the table, or were not sent.
func (s *sender) sendNumbers(channel, count int, padding string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	last := s.begun[channel].Add(int64(count))
	_, err := s.db.ExecContext(ctx, fmt.Sprintf(`insert into %s select %d, n from generate_series(%d, %d) n;
		select count(pg_notify('%s', n || ' %s')) from generate_series(%[3]d, %[4]d) n`,
		s.table, channel, last-int64(count)+1, last, s.channels[channel], padding))
	return err
}

// sent returns the numbers of each channel.
func (s *sender) sent(t testing.TB) [][]int64 {
	t.Helper()
	all := make([][]int64, len(s.channels))
	for i := range all {
		all[i] = s.sentAfter(testContext(t), i, 0, func(err error) { t.Fatal(err) })
	}
	return all
}

// sentAfter returns the numbers of a channel that are greater than one.
func (s *sender) sentAfter(ctx context.Context, channel int, cursor int64, fail func(error)) (numbers []int64) {
	rows, err := s.db.QueryContext(ctx, "select number from "+s.table+" where channel = $1 and number > $2 order by number", channel, cursor)
	if err != nil {
		fail(err)
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			fail(err)
		}
		numbers = append(numbers, n)
	}
	if err := rows.Err(); err != nil {
		fail(err)
	}
	return numbers
}
