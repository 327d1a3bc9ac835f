package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// brokenFrames are what no server sends. The connection stays open after them,
// so they must be recognised for what they are.
func brokenFrames() map[string][]byte {
	const forever = 1 << 31
	frames := map[string][]byte{
		"length of a row 2^31":             pgfake.RawFrame('D', forever, "x"),
		"length of a row 2^32-1":           pgfake.RawFrame('D', 1<<32-1, "x"),
		"length of a tag 2^31":             pgfake.RawFrame('C', forever, "x"),
		"length of a notice 2^31":          pgfake.RawFrame('N', forever, "x"),
		"length of a notification 2^31":    pgfake.RawFrame('A', forever, "x"),
		"length of a notification 2^24":    pgfake.RawFrame('A', 1<<24, "x"),
		"length of a status 2^20":          pgfake.RawFrame('Z', 1<<20, "I"),
		"notification without process id":  pgfake.Frame('A', "\x00\x00"),
		"notification without channel":     pgfake.Frame('A', "\x00\x00\x00\x01channel"),
		"notification without payload":     pgfake.Frame('A', "\x00\x00\x00\x01channel\x00payload"),
		"notification with more behind it": pgfake.Frame('A', "\x00\x00\x00\x01channel\x00payload\x00more"),
		"status that is none":              pgfake.Ready('X'),
		"status that is missing":           pgfake.Frame('Z', ""),
		"status that is too long":          pgfake.Frame('Z', "II"),
		"notice without terminator":        pgfake.Frame('N', "SNOTICE\x00Mx"),
		"notice without end":               pgfake.Frame('N', "SNOTICE\x00"),
		"error without terminator":         pgfake.Frame('E', "SERROR\x00C42601\x00Mx"),
		"error without end":                pgfake.Frame('E', "SERROR\x00"),
		"error that is empty":              pgfake.Frame('E', ""),
		"tag without terminator":           pgfake.Frame('C', "SELECT 1"),
		"parameter without value":          pgfake.Frame('S', "TimeZone\x00"),
		"key that is too short":            pgfake.Frame('K', "\x00\x00\x00\x01"),
		"type that is none":                pgfake.Frame('?', "what"),
		"type that is zero":                pgfake.Frame(0, ""),
		"text":                             []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	}
	for n := range uint32(4) {
		for _, typ := range []byte("DCZANSTKE") {
			frames[fmt.Sprintf("length of %c %d", typ, n)] = pgfake.RawFrame(typ, n, "xxxxxxxx")
		}
	}
	return frames
}

// oddFrames are well formed, but say what cannot be, at least amid an answer.
func oddFrames() map[string][]byte {
	return map[string][]byte{
		"negative number of columns": pgfake.Frame('T', "\xff\xff"),
		"columns that are missing":   pgfake.Frame('T', "\x00\x05abc"),
		"values that are missing":    append(pgfake.Columns("a"), pgfake.Frame('D', "\x00\x05")...),
		"negative length of a value": append(pgfake.Columns("a"), pgfake.Frame('D', "\x00\x01\xff\xff\xff\x00x")...),
		"value that is too short":    append(pgfake.Columns("a"), pgfake.Frame('D', "\x00\x01\x00\x00\x00\x09x")...),
		"password request":           pgfake.Frame('R', "\x00\x00\x00\x03"),
		"COPY answer":                pgfake.CopyIn(1),
		"COPY of nothing":            pgfake.Frame('G', ""),
		"COPY data":                  pgfake.Frame('d', "x"),
		"COPY's end":                 pgfake.Frame('c', ""),
		"portal suspended":           pgfake.Frame('s', ""),
		"number that is none":        pgfake.Complete("INSERT 0 many"),
	}
}

// A conversation is brought to some point of a session's life.
type conversation struct {
	name   string
	script pgfake.Script // up to the broken frame
	run    func(ctx context.Context, db *sql.DB) error
	odd    bool // odd frames are errors too
}

func conversations() []conversation {
	tx := pgfake.Send(pgfake.Complete("BEGIN"), pgfake.Ready('T'))
	inCopy := func(ctx context.Context, db *sql.DB, f func(*sql.Stmt) error) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		st, err := tx.PrepareContext(ctx, "copy t from stdin")
		if err != nil {
			return err
		}
		defer st.Close()
		return f(st)
	}
	query := func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, "select 1")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		if err := rows.Err(); err != nil {
			return err
		}
		return rows.Close()
	}
	prepared := func(ctx context.Context, db *sql.DB) error {
		st, err := db.PrepareContext(ctx, "select 1")
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx)
		return err
	}
	argument := func(ctx context.Context, db *sql.DB) error { _, err := db.ExecContext(ctx, "select $1", 1); return err }
	described := pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x01\x00\x00\x00\x17"), pgfake.Columns("a"))
	return []conversation{
		{"exec", pgfake.Script{pgfake.Greet(), pgfake.Await('Q')},
			func(ctx context.Context, db *sql.DB) error { _, err := db.ExecContext(ctx, "select 1"); return err }, false},
		{"query", pgfake.Script{pgfake.Greet(), pgfake.Await('Q')}, query, true},
		{"rows", pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(pgfake.Columns("a"), pgfake.Row("1"), pgfake.Row("2"))}, query, false},
		{"begin", pgfake.Script{pgfake.Greet(), pgfake.Await('Q')},
			func(ctx context.Context, db *sql.DB) error {
				tx, err := db.BeginTx(ctx, nil)
				if err == nil {
					_ = tx.Rollback()
				}
				return err
			}, false},
		{"parse", pgfake.Script{pgfake.Greet(), pgfake.Await('S')}, prepared, true},
		{"describe", pgfake.Script{pgfake.Greet(), pgfake.Await('S'), pgfake.Send(pgfake.Frame('1', ""))}, prepared, true},
		{"bind", pgfake.Script{pgfake.Greet(), pgfake.Await('S'), pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x00"),
			pgfake.Columns("a"), pgfake.Ready('I')), pgfake.Await('S')}, prepared, true},
		{"execute", pgfake.Script{pgfake.Greet(), pgfake.Await('S'), pgfake.Send(pgfake.Frame('1', ""), pgfake.Frame('t', "\x00\x00"),
			pgfake.Columns("a"), pgfake.Ready('I')), pgfake.Await('S'), pgfake.Send(pgfake.Frame('2', ""))}, prepared, false},
		{"argument's parse", pgfake.Script{pgfake.Greet(), pgfake.Await('H')}, argument, true},
		{"argument's describe", pgfake.Script{pgfake.Greet(), pgfake.Await('H'), pgfake.Send(pgfake.Frame('1', ""))}, argument, true},
		{"argument's bind", pgfake.Script{pgfake.Greet(), pgfake.Await('H'), described, pgfake.Await('S')}, argument, true},
		{"argument's execute", pgfake.Script{pgfake.Greet(), pgfake.Await('H'), described, pgfake.Await('S'), pgfake.Send(pgfake.Frame('2', ""))}, argument, false},
		{"COPY's start", pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), tx, pgfake.Await('Q')},
			func(ctx context.Context, db *sql.DB) error {
				return inCopy(ctx, db, func(*sql.Stmt) error { return nil })
			}, false},
		{"COPY", pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), tx, pgfake.Await('Q'), pgfake.Send(pgfake.CopyIn(1)), pgfake.Await('d')},
			func(ctx context.Context, db *sql.DB) error {
				return inCopy(ctx, db, func(st *sql.Stmt) (err error) {
					for err == nil && ctx.Err() == nil { // until it hears of it
						_, err = st.ExecContext(ctx, strings.Repeat("x", 1000))
					}
					return err
				})
			}, true},
		{"COPY's end", pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), tx, pgfake.Await('Q'), pgfake.Send(pgfake.CopyIn(1)), pgfake.Await('c')},
			func(ctx context.Context, db *sql.DB) error {
				return inCopy(ctx, db, func(st *sql.Stmt) error { _, err := st.ExecContext(ctx); return err })
			}, true},
		{"waiting", pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(pgfake.Complete("LISTEN"), pgfake.Ready('I'))},
			func(ctx context.Context, db *sql.DB) error {
				conn, err := db.Conn(ctx)
				if err != nil {
					return err
				}
				defer conn.Close()
				pc, err := pgnotify.FromConn(conn)
				if err != nil {
					return err
				}
				if err := pc.Listen(ctx, "x"); err != nil {
					return err
				}
				_, err = pc.WaitForNotification(ctx)
				return err
			}, true},
	}
}

// F1
func TestBrokenFrames(t *testing.T) {
	t.Parallel()
	frames := brokenFrames()
	for _, c := range conversations() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for name, frame := range frames {
				t.Run(name, func(t *testing.T) { c.checkBroken(t, frame) })
			}
			if c.odd {
				for name, frame := range oddFrames() {
					if name == "COPY answer" && (c.name == "query" || strings.HasPrefix(c.name, "COPY")) {
						continue // it has its place there
					}
					t.Run(name, func(t *testing.T) { c.checkBroken(t, frame) })
				}
			}
		})
	}
}

// checkBroken sends a frame at a point of a conversation, and has a look at what
// comes of it.
func (c conversation) checkBroken(t *testing.T, frame []byte) {
	t.Helper()
	fake := pgfake.Start(t,
		append(slices.Clone(c.script), pgfake.Send(frame), pgfake.Drain()),
		pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	db := open(t, fake.DSN())
	ctx := testContext(t)
	err := c.run(ctx, db)
	lost, ok := asError[*pgnotify.DisconnectError](err)
	switch {
	case ctx.Err() != nil:
		t.Errorf("it hung: %v", err)
	case !ok || lost.Reason != pgnotify.ProtocolError:
		t.Errorf("got %T %v", err, err)
	}
	var one string
	if err := db.QueryRowContext(testContext(t), "select 1").Scan(&one); err != nil || one != "1" {
		t.Errorf("afterwards: %q, %v", one, err)
	}
	if n := fake.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// F1: start-up.
func TestBrokenFramesDuringStartup(t *testing.T) {
	t.Parallel()
	frames := brokenFrames()
	for name, frame := range oddFrames() {
		frames[name] = frame
	}
	accepted := pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"))
	for stage, script := range map[string]pgfake.Script{
		"at once":              {pgfake.Startup()},
		"after authentication": {pgfake.Startup(), accepted},
		"amid parameters":      {pgfake.Startup(), accepted, pgfake.Send(pgfake.Parameter("a", "b"))},
	} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			for name, frame := range frames {
				if frame[0] == 'R' {
					continue // the server may ask for a password now, and wait for it
				}
				end := pgfake.Drain()
				if stage == "at once" && frame[0] == 'E' {
					end = func(*pgfake.Session) error { return io.EOF } // plain text ends with the connection
				}
				fake := pgfake.Start(t,
					append(slices.Clone(script), pgfake.Send(frame), end),
					pgfake.Script{pgfake.Greet(), pgfake.Serve()})
				db := open(t, fake.DSN())
				ctx := testContext(t)
				err := db.PingContext(ctx)
				if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), fake.Addr()) {
					t.Errorf("%s: got %v (%v)", name, err, ctx.Err())
				}
				if err := db.PingContext(testContext(t)); err != nil {
					t.Errorf("%s: afterwards: %v", name, err)
				}
			}
		})
	}
}

var noiseSeed = flag.Uint64("noise.seed", 0, "what the bytes of TestRandomBytes depend on; 0: a new one")

// F1: random bytes. The connection ends after them, for they may be the
// beginning of anything.
func TestRandomBytes(t *testing.T) {
	t.Parallel()
	seed := *noiseSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	for _, c := range conversations() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := rand.New(rand.NewPCG(seed, 1))
			for n := range 20 {
				noise := make([]byte, 1+source.IntN(200))
				for i := range noise {
					noise[i] = byte(source.Uint32())
				}
				if source.IntN(2) == 0 { // with a type that is known
					noise[0] = "DCZANSTKER12nt"[source.IntN(14)]
				}
				t.Run(strconv.Itoa(n), func(t *testing.T) { c.withNoise(t, noise) }) // which lets go of its server
			}
		})
	}
}

// withNoise has noise come in place of an answer: the session is lost, and the next one
// works.
func (c conversation) withNoise(t *testing.T, noise []byte) {
	fake := pgfake.Start(t, append(slices.Clone(c.script), pgfake.Send(noise)),
		pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	db := open(t, fake.DSN())
	ctx := testContext(t)
	if err := c.run(ctx, db); err == nil || ctx.Err() != nil {
		t.Errorf("%q: %v", noise, err)
	}
	if err := db.PingContext(ctx); err != nil {
		t.Errorf("%q: afterwards: %v", noise, err)
	}
}

// A slowConn reads little at a time.
type slowConn struct {
	net.Conn
	least, most int
	mu          sync.Mutex // guards source
	source      *rand.Rand
}

func (c *slowConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	n := c.least + c.source.IntN(c.most-c.least+1)
	c.mu.Unlock()
	return c.Conn.Read(p[:min(n, len(p))])
}

// F2
func TestReadsInPieces(t *testing.T) {
	t.Parallel()
	if server(t).Server == nil {
		t.Skip("the server is not ours")
	}
	for _, m := range modes(t) {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/active=%v", m.name, active), func(t *testing.T) {
				t.Parallel()
				whole := converse(t, m.dsn, active, 1<<20, 1<<20)
				if len(whole) < 20 {
					t.Fatalf("a poor conversation: %q", whole)
				}
				for _, size := range []struct{ least, most int }{{1, 1}, {2, 17}, {5, 5}, {1, 3000}} {
					pieces := converse(t, m.dsn, active, size.least, size.most)
					for i := range max(len(whole), len(pieces)) {
						if i >= len(whole) || i >= len(pieces) || whole[i] != pieces[i] {
							t.Errorf("reads of %d to %d bytes: line %d:\ngot  %.300q\nwant %.300q", size.least, size.most, i, pieces[i:], whole[i:])
							break
						}
					}
				}
			})
		}
	}
}

// converse does a little of everything over reads of the given sizes, and
// returns what it saw.
func converse(t *testing.T, dsn string, active bool, least, most int) (seen []string) {
	t.Helper()
	say := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	ctx := testContext(t)
	db := open(t, dsn, func(c *pgnotify.Config) {
		c.Options = "-c client_min_messages=notice"
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &slowConn{Conn: conn, least: least, most: most, source: rand.New(rand.NewPCG(1, 2))}, err
		}
	})
	s := take(t, db)
	if active {
		s.pc.Activate()
	}
	notices := messages(s)
	var heard collector[string]
	s.pc.AddNotificationHandler(func(n pgnotify.Notification) {
		heard.add(fmt.Sprint(n.Channel, " ", n.Payload, " ", n.PID == s.pc.PID()))
	})
	values := func(query string, args ...any) { say("%s: %q", query, readAll(t, s, query, args...)) }
	fails := func(query string, args ...any) {
		_, err := s.ExecContext(ctx, query, args...)
		say("%s: %q", query, err)
	}
	channel := uniqueName("f2")[:6]

	values("select 1 union all select 22 union all select 333 order by 1")
	values("select $1::text || $2", "a", "b")
	values("select repeat('x', 5000) from generate_series(1, 3)")
	values("select ''")
	fails("select 1/0")
	fails("select 1/$1::int", 0)
	fails("do $$ begin raise exception 'long' using detail = repeat('d', 40000); end $$")
	mustExec(t, s, "create or replace function pg_temp.say(text) returns text language plpgsql as $$ begin raise notice 'said %', $1; return $1; end $$")
	values("select pg_temp.say(i::text) from generate_series(1, 5) i")
	values("select pg_temp.say(repeat('n', $1))", 2000)
	st, err := s.PrepareContext(ctx, "select $1::int * 2")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		var v int
		err := st.QueryRowContext(ctx, i).Scan(&v)
		say("prepared: %d %v", v, err)
	}
	_, err = st.ExecContext(ctx, "x")
	say("prepared: %v", err)
	say("closed: %v", st.Close())

	mustExec(t, s, "create temp table f2 (a int)")
	copyInto(t, s, "f2", 500)
	values("select count(*) || ' ' || sum(a) from f2")
	tx, err := s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	in, err := tx.PrepareContext(ctx, "copy f2 from stdin")
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.ExecContext(ctx, "no number")
	say("COPY: %v", err)
	_, err = in.ExecContext(ctx)
	say("COPY: %v", err)
	say("COPY: %v %v", in.Close(), tx.Rollback())

	tx, err = s.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "set local timezone = 'Asia/Tokyo'")
	zone, ok := s.pc.ParameterStatus("TimeZone")
	say("%s %v %v", zone, ok, s.pc.TransactionStatus())
	say("committed: %v %v", tx.Commit(), s.pc.TransactionStatus())
	rows, err := s.QueryContext(ctx, "select 1; select 2, 3")
	if err != nil {
		t.Fatal(err)
	}
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
		}
		columns, err := rows.Columns()
		say("%q %v", columns, err)
	}
	say("%v %v", rows.Err(), rows.Close())

	if err := s.pc.Listen(ctx, channel); err != nil {
		t.Fatal(err)
	}
	mustExec(t, s, "select pg_notify($1, 'own ' || i) from generate_series(1, 3) i", channel)
	for i := range 3 {
		if err := pgnotify.Notify(ctx, db, channel, strings.Repeat("foreign", 100*i+1)); err != nil {
			t.Fatal(err)
		}
	}
	for n, err := range s.pc.Notifications(ctx, pgnotify.StopAfter(6)) {
		say("%s %v %v", n.Payload, n.PID == s.pc.PID(), err)
	}
	values("select 'the end'")
	until(t, "the handlers have run", func() bool { return len(heard.all()) == 6 })
	for _, n := range append(heard.all(), notices.all()...) {
		say("heard: %s", strings.ReplaceAll(n, channel, "channel"))
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = s.ExecContext(short, "select pg_sleep(20)")
	say("cancelled: %v %v", errors.Is(err, context.DeadlineExceeded), serverError(t, err).Code)
	values("select 'after it'")
	return seen
}

// What lib/pq would stumble over during the start-up is told, and is no
// driver.ErrBadConn, for which database/sql would connect again.
func TestBrokenStartupIsNoBadConn(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('v', "")), pgfake.Drain()})
	err := connectError(t, fake.DSN())
	if errors.Is(err, driver.ErrBadConn) || !strings.Contains(err.Error(), "protocol error: message 'v'") {
		t.Errorf("got %v", err)
	}
}
