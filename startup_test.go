package pgnotify_test

import (
	"context"
	"database/sql"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// O5, F1: during the start-up only its messages pass, of their real sizes and as often as
// they may come; lib/pq would take others for good, or answer them with the password.
func TestStartupMessagesOutOfPlace(t *testing.T) {
	t.Parallel()
	ok, key := pgfake.Frame('R', "\x00\x00\x00\x00"), pgfake.Frame('K', "\x00\x00\x00\x01key!")
	end := slices.Concat(key, pgfake.Ready('I'))
	version := func(body string) []byte { return pgfake.Frame('v', body) }
	for name, words := range map[string][]byte{
		"no authentication":               end,
		"parameter before authentication": slices.Concat(pgfake.Parameter("a", "b"), ok, end),
		"key before authentication":       slices.Concat(key, ok, pgfake.Ready('I')),
		"two keys":                        slices.Concat(ok, key, end),
		"password request afterwards":     slices.Concat(ok, pgfake.Frame('R', "\x00\x00\x00\x03"), end),
		"authenticated twice":             slices.Concat(ok, ok, end),
		"version afterwards":              slices.Concat(ok, version("\x00\x00\x00\x00\x00\x00\x00\x00"), end),
		"two versions":                    slices.Concat(version("\x00\x00\x00\x00\x00\x00\x00\x00"), version("\x00\x00\x00\x00\x00\x00\x00\x00"), ok, end),
		"version without count":           slices.Concat(version("\x00\x00\x00\x00"), ok, end),
		"version with fewer options":      slices.Concat(version("\x00\x00\x00\x00\x00\x00\x00\x02a\x00"), ok, end),
		"version with more options":       slices.Concat(version("\x00\x00\x00\x00\x00\x00\x00\x00a\x00"), ok, end),
		"version whose option has no end": slices.Concat(version("\x00\x00\x00\x00\x00\x00\x00\x01a\x00b"), ok, end),
		"another major version":           slices.Concat(version("\x00\x04\x00\x00\x00\x00\x00\x00"), ok, end),
		"negative version":                slices.Concat(version("\xff\xff\xff\xff\x00\x00\x00\x00"), ok, end),
		"row announced":                   pgfake.RawFrame('D', 1<<30, ""),
		"row announced afterwards":        slices.Concat(ok, pgfake.RawFrame('D', 1<<30, "")),
		"authentication announced":        pgfake.RawFrame('R', 1<<20, "\x00\x00\x00\x0a"),
		"error announced":                 pgfake.RawFrame('E', 1<<20, "SFATAL"),
		"notice announced":                slices.Concat(pgfake.Notice("NOTICE", "00000", "x"), pgfake.RawFrame('N', 1<<28, "SNOTICE")),
		"notices without end":             slices.Repeat(pgfake.Notice("NOTICE", "00000", "x"), 1000),
		"mechanisms without end":          pgfake.RawFrame('R', 1<<16, "\x00\x00\x00\x0a"+strings.Repeat("SCRAM-SHA-256\x00", 4000)),
		"answer before the end":           slices.Concat(ok, pgfake.Columns("a"), end),
		"tag before the end":              slices.Concat(ok, pgfake.Complete("SELECT 1"), end),
		"COPY before the end":             slices.Concat(ok, pgfake.CopyIn(1), end),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(words), pgfake.Drain()}, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
			db := open(t, fake.DSN()+" password=secret")
			ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
			defer cancel()
			err := db.PingContext(ctx)
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "protocol error") && !strings.Contains(err.Error(), "not a PostgreSQL server") {
				t.Errorf("got %v", err)
			}
			if err := db.PingContext(testContext(t)); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// A version may be negotiated, with names of options, before the authentication.
func TestNegotiatedVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x03\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x02_pq_.a\x00_pq_.b\x00"} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('v', version), pgfake.Frame('R', "\x00\x00\x00\x00"),
			pgfake.Frame('K', "\x00\x00\x00\x01key!"), pgfake.Ready('I')), pgfake.Serve()})
		if err := open(t, fake.DSN()).PingContext(testContext(t)); err != nil {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// O5: memory grows with what has arrived, not with what was announced. It must not run
// beside other tests.
func TestMemoryOfWhatWasAnnounced(t *testing.T) {
	column := string(pgfake.Columns("a")[7:])
	value := func(size int) string { return "\x00\x01" + string(pgfake.RawFrame('x', uint32(size-4-2-4), "")[1:]) }
	for name, words := range map[string][]byte{
		"a row":                   slices.Concat(pgfake.Columns("a"), pgfake.RawFrame('D', 1<<30, "")),
		"a row's value":           slices.Concat(pgfake.Columns("a"), pgfake.RawFrame('D', 1<<30, value(1<<30))),
		"a row and some of it":    slices.Concat(pgfake.Columns("a"), pgfake.RawFrame('D', 1<<30, value(1<<30)+strings.Repeat("x", 1<<20))),
		"columns":                 pgfake.RawFrame('T', 4<<20-1, "\x00\x01"+column),
		"many columns":            pgfake.Frame('T', "\xff\xff"+column),
		"parameters":              pgfake.Frame('t', "\xff\xff"),
		"output of COPY":          slices.Concat(pgfake.Frame('H', "\x00\x00\x00"), pgfake.RawFrame('d', 1<<30, "x")),
		"a function's result":     pgfake.RawFrame('V', 1<<30, "x"),
		"an error":                pgfake.RawFrame('E', 1<<30, "SERROR\x00M"+strings.Repeat("x", 1<<20)),
		"a notice":                pgfake.RawFrame('N', 1<<30, "SNOTICE\x00M"+strings.Repeat("x", 1<<20)),
		"a row where none can be": pgfake.RawFrame('D', 1<<30, value(1<<30)),
	} {
		for _, active := range []bool{false, true} {
			sent, hold := make(chan struct{}), make(chan struct{})
			fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(words), func(*pgfake.Session) error {
				close(sent)
				return nil
			}, pgfake.WaitFor(hold)})
			db := open(t, fake.DSN())
			s := take(t, db)
			if active {
				s.pc.Activate()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			failed := make(chan error, 1)
			go func() { failed <- drain(s.QueryContext(context.Background(), "select 1")) }() // ends with the session; received below
			recv(t, sent)
			close(hold) // the connection ends behind it, so all of it is read
			err := recv(t, failed)
			runtime.ReadMemStats(&after)
			if !pgnotify.IsDisconnect(err) {
				t.Errorf("%s, active %v: %v", name, active, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 20<<20 {
				t.Errorf("%s, active %v: %d bytes were allocated for %d", name, active, n, len(words))
			}
		}
	}
}

// Large rows are whole, however large.
func TestLargeRows(t *testing.T) {
	eachSession(t, func(t *testing.T, _ *sql.DB, s *session) {
		for _, size := range []int{1 << 20, 2<<20 - 11, 2<<20 - 10, 2<<20 - 9, 2 << 20, 5_000_000, 30 << 20} {
			got := queryValue[string](t, s, "select repeat('0123456789', $1 / 10) || repeat('x', $1 % 10)", size)
			if len(got) != size || strings.Count(got, "0123456789") != size/10 {
				t.Errorf("%d bytes of %d", len(got), size)
			}
		}
	})
}
