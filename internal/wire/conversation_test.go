package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A conversation is what client and server say, request by request.
type conversation struct {
	name  string
	steps []step
	large bool // too long to be cut everywhere
	drops bool // nobody wants rows

	listened bool
	fatal    string   // the SQLSTATE of the loss, if the server gave one
	params   []string // "name=value" at the end, beside the greeting's
}

// A step is a request and all that the server sends until the next.
type step struct {
	request []byte
	server  []frame
	want    []byte // what lib/pq gets; nil: everything but notifications and notices
}

func (s step) forwarded() []byte {
	if s.want != nil {
		return s.want
	}
	var b []byte
	for _, f := range s.server {
		if f[0] != 'A' && f[0] != 'N' {
			b = append(b, f...)
		}
	}
	return b
}

// events are the events that the step's server frames must give, in the shape
// that type events records.
func (s step) events() []string {
	var list []string
	for _, f := range s.server {
		switch f[0] {
		case 'A':
			parts := strings.Split(string(f[9:]), "\x00")
			list = append(list, "A "+parts[0]+" "+parts[1])
		case 'N':
			r, err := wire.ParseResponse('N', f[5:])
			if err != nil {
				panic(err)
			}
			list = append(list, "N "+r.Message)
		}
	}
	return list
}

// started is a conversation that goes on after a greeting.
func started(name string, steps ...step) conversation {
	first := step{request: startupPacket, server: greeting()}
	return conversation{name: name, steps: append([]step{first}, steps...)}
}

func (c conversation) with(f func(*conversation)) conversation { f(&c); return c }

func listens(c *conversation) { c.listened = true }
func large(c *conversation)   { c.large = true }

// unwanted is for a conversation of whose rows lib/pq gets none.
func unwanted(c *conversation) {
	c.drops = true
	for i := range c.steps {
		step := &c.steps[i]
		step.want = join(slices.DeleteFunc(slices.Clone(step.server), func(f frame) bool {
			return strings.IndexByte("AND", f[0]) >= 0
		})...)
	}
}

// ask is a step with a simple query.
func ask(server ...frame) step { return step{request: query("SELECT"), server: server} }

var bigRow = row(strings.Repeat("0123456789abcdef", 64<<10))

func conversations() []conversation {
	select1 := []frame{rowDesc, row("1"), tag("SELECT 1"), idle}
	answer := join(select1...)
	reload := param("TimeZone", "Europe/Rome")
	return []conversation{
		started("greeting"),
		{name: "notices in the greeting", steps: []step{
			{startupPacket, []frame{notice("first"), authOK, notice("second"), key, param("a", "b"), idle}, nil},
		}, params: []string{"a=b"}},
		{name: "long key", steps: []step{
			{startupPacket, []frame{newFrame('v', uint32s(2), uint32s(0)), authOK, newFrame('K', uint32s(4711), strings.Repeat("k", 256)), idle}, nil},
		}},
		{name: "password", steps: []step{
			{startupPacket, []frame{newFrame('R', uint32s(5), "salt")}, nil},
			{newFrame('p', "md5\x00"), greeting(), nil},
		}},
		{name: "rejected", steps: []step{
			{startupPacket, []frame{report('E', "SFATAL", "VFATAL", "C28P01", "Mpassword authentication failed")}, nil},
		}, fatal: "28P01"},

		started("simple query", ask(select1...), ask(select1...)),
		started("empty query", ask(noQuery, idle)),
		started("extended query",
			step{join(parseAsked, newFrame('D', "S\x00"), newFrame('S')), []frame{parsed, noParams, rowDesc, idle}, nil},
			step{join(bindAsked, executeAsked, newFrame('S')), []frame{bound, row("1"), row(""), tag("SELECT 2"), idle}, nil},
			step{join(parseAsked, newFrame('D', "S\x00"), newFrame('S')), []frame{parsed, noParams, noData, idle}, nil},
			step{join(bindAsked, executeAsked, newFrame('S')), []frame{bound, tag("SET"), idle}, nil},
			step{join(parseAsked, bindAsked, newFrame('D', "P\x00"), executeAsked, newFrame('S')), []frame{parsed, bound, rowDesc, row("1"), tag("SELECT 1"), idle}, nil},
			step{join(parseAsked, bindAsked, executeAsked, newFrame('S')), []frame{parsed, syntaxErr, idle}, nil}),
		started("several results", ask(rowDesc, row("1"), tag("SELECT 1"), tag("INSERT 0 1"), rowDesc, tag("SELECT 0"), idle)),
		started("transaction", ask(tag("BEGIN"), inTx), ask(select1[0], select1[1], select1[2], inTx), ask(syntaxErr, failedTx), ask(tag("ROLLBACK"), idle)),
		started("error", ask(syntaxErr, idle), ask(rowDesc, row("1"), syntaxErr, idle), ask(select1...)),
		started("function call", step{newFrame('F'), []frame{newFrame('V', uint32s(0)), idle}, nil}),

		started("asynchronous messages everywhere",
			ask(note("a", "1"), rowDesc, notice("2"), row("1"), note("b", "3"), note("b", "4"), tag("SELECT 1"), notice("5"), idle, note("a", "6"), notice("7"), note("a", "8")),
			ask(notice("9"), note("c", ""), rowDesc, tag("SELECT 0"), idle, note("c", "10"))).with(listens),
		started("parameter in an answer", ask(rowDesc, reload, row("1"), tag("SET"), idle)).with(
			func(c *conversation) { c.params = []string{"TimeZone=Europe/Rome"} }),
		started("parameter while idle", ask(rowDesc, tag("SELECT 0"), idle, reload, notice("reloaded")),
			step{query("SELECT"), select1, append(slices.Clone(reload), answer...)}, ask(select1...)).with(
			func(c *conversation) {
				c.params = []string{"TimeZone=Europe/Rome"}
				c.steps[1].want = join(rowDesc, tag("SELECT 0"), idle)
			}),
		started("parameter after the greeting", ask(select1...)).with(func(c *conversation) {
			c.steps[0].server = append(greeting(), param("in_hot_standby", "off"))
			c.steps[0].want = join(greeting()...)
			c.steps[1].want = append(slices.Clone(param("in_hot_standby", "off")), answer...)
			c.params = []string{"in_hot_standby=off"}
		}),

		started("COPY in",
			ask(tag("BEGIN"), inTx),
			step{query("COPY t FROM STDIN"), []frame{note("a", "0"), copyIn}, nil},
			step{newFrame('d', "1\n"), []frame{notice("row 1"), note("a", "1"), reload}, []byte{}},
			step{newFrame('c'), []frame{notice("row 2"), tag("COPY 1"), note("a", "2"), inTx}, join(tag("COPY 1"), inTx)},
			step{query("COMMIT"), []frame{tag("COMMIT"), idle, note("a", "3")}, join(reload, tag("COMMIT"), idle)}).with(
			func(c *conversation) { c.listened, c.params = true, []string{"TimeZone=Europe/Rome"} }),
		started("COPY fails",
			ask(tag("BEGIN"), inTx),
			step{query("COPY t FROM STDIN"), []frame{copyIn}, nil},
			step{newFrame('d', "x\n"), []frame{notice("bad"), syntaxErr, failedTx, notice("after")}, nil},
			ask(tag("ROLLBACK"), idle)),
		started("COPY out", ask(newFrame('H', "\x00\x00\x01\x00\x00"), newFrame('d', "1\n"), notice("mid"), newFrame('d', "2\n"), newFrame('c'), tag("COPY 2"), rowDesc, row("1"), tag("SELECT 1"), idle), ask(select1...)).with(
			func(c *conversation) { c.steps[1].want = join(wire.RefusedOutput, idle) }),

		started("fatal", ask(rowDesc, row("1"), killed)).with(func(c *conversation) { c.fatal = "57P01" }),
		started("fatal while idle", step{query("SELECT"), append(slices.Clone(select1), notice("bye"), killed), answer}).with(
			func(c *conversation) { c.fatal = "57P01" }),
		started("end in a frame", ask(rowDesc, row("1")[:7])),
		started("bytes that are no UTF-8", ask(note("a", "\xff\xfe"), notice("\xc3("), rowDesc, row("\x80"), report('E', "SERROR", "C22021", "M\xe2\x82"), idle)).with(listens),

		started("unwanted rows",
			ask(rowDesc, row("1"), note("a", "1"), row("2"), notice("2"), row(""), row("3"), tag("SELECT 4"), rowDesc, row("4"), tag("SELECT 1"), note("a", "3"), idle),
			ask(rowDesc, row("1"), row("2"), syntaxErr, idle),
			ask(select1...)).with(listens).with(unwanted),
		started("unwanted large rows", ask(rowDesc, row("1"), row(strings.Repeat("x", 300_000)), note("a", "1"), row(strings.Repeat("x", 50_000)), row("2"), tag("SELECT 4"), idle),
			ask(select1...)).with(listens).with(large).with(unwanted),
		started("large row", ask(rowDesc, note("a", "1"), bigRow, note("a", "2"), row(strings.Repeat("x", 50_000)), tag("SELECT 2"), idle, note("a", "3"))).with(listens).with(large),
		started("many notifications", ask(slices.Concat(manyNotes(0, 3000), []frame{rowDesc}, manyNotes(3000, 3100), []frame{tag("SELECT 0"), idle}, manyNotes(3100, 5000))...)).with(listens).with(large),
		longReports("long error in startup", wire.MaxErrorBody+1, 0),
		longReports("long error", 40_000, 1),
		longReports("longer error", 1<<20, 1),
		longReports("long error in COPY", 40_000, 2),
		started("long notices", ask(longNotice(100_000), rowDesc, longNotice(10), tag("SELECT 0"), longNotice(400_000), idle, longNotice(70_000), note("a", "1"))).with(listens).with(large),
	}
}

func manyNotes(from, to int) []frame {
	var list []frame
	for i := from; i < to; i++ {
		list = append(list, note("many", fmt.Sprint(i)))
	}
	return list
}

func longNotice(n int) frame { return notice(strings.Repeat("n", n)) }

// longError is an ErrorResponse with a body of n bytes at least, whose message
// is followed by other fields.
func longError(n int) frame {
	return report('E', "SERROR", "VERROR", "CXX000", "M"+strings.Repeat("é", n/2+1), "Ddetail", "Hhint", "Wwhere", "Fa.c", "L1", "Rf")
}

// longReports has a long error at the greeting (0), in an answer (1) or in a
// COPY (2). What lib/pq gets is looked at in another test; here the same must
// come out however the stream is cut.
func longReports(name string, n, where int) conversation {
	long := longError(n)
	short := clipped(long, where == 0)
	after := []frame{rowDesc, tag("SELECT 0"), idle}
	var c conversation
	switch where {
	case 0:
		c = conversation{name: name, steps: []step{{startupPacket, []frame{notice("0"), long}, short}}}
	case 1:
		c = started(name, step{query("SELECT"), []frame{note("a", "1"), rowDesc, row("1"), long, note("a", "2"), idle}, join(rowDesc, row("1"), short, idle)}, ask(after...))
		c.listened = true
	case 2:
		c = started(name, step{query("COPY"), []frame{copyIn, notice("1"), long, failedTx}, join(copyIn, short, failedTx)}, ask(after...))
	}
	c.large = true
	return c
}

// clipped is what becomes of a long report.
func clipped(long frame, stranger bool) frame {
	clip := wire.Clip
	if stranger {
		clip = wire.ClipStranger
	}
	body, err := clip(long[0], long[5:], len(long))
	if err != nil {
		panic(err)
	}
	return newFrame(long[0], string(body))
}

// An outcome is all that a conversation leaves behind.
type outcome struct {
	forwarded []string // one a step
	events    []string
	status    byte
	pid       uint32
	listened  bool
	fatal     string
	params    []string
	lost      string
}

// expected is the outcome by the table.
func (c conversation) expected() outcome {
	o := outcome{listened: c.listened, fatal: c.fatal, lost: io.EOF.Error()}
	params := map[string]string{}
	for _, s := range c.steps {
		o.forwarded = append(o.forwarded, string(s.forwarded()))
		o.events = append(o.events, s.events()...)
		for _, f := range s.server {
			switch f[0] {
			case 'Z':
				o.status = f[5]
			case 'K':
				o.pid = 4711
			case 'S':
				parts := strings.Split(string(f[5:]), "\x00")
				params[parts[0]] = parts[1]
			}
		}
	}
	for _, p := range c.params {
		name, value, _ := strings.Cut(p, "=")
		params[name] = value
	}
	o.params = paramList(func(name string) (string, bool) { v, ok := params[name]; return v, ok })
	return o
}

func paramList(get func(string) (string, bool)) (list []string) {
	for _, name := range []string{"server_version", "TimeZone", "in_hot_standby", "a"} {
		if value, ok := get(name); ok {
			list = append(list, name+"="+value)
		}
	}
	return list
}

// A client reads as lib/pq does.
type client struct {
	t       *testing.T
	conn    *wire.Conn
	buf     []byte
	pending []byte // of a frame not yet whole
}

// readAnswer reads until the ready-th ReadyForQuery, or until n bytes, and
// reports what it got.
func (c *client) readAnswer(n int) (got []byte, err error) {
	for len(got) < n {
		m, err := c.conn.Read(c.buf)
		got = append(got, c.buf[:m]...)
		c.check(c.buf[:m])
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

// check fails the test if p holds a ReadyForQuery and more.
func (c *client) check(p []byte) {
	more := len(c.pending) > 0
	c.pending = append(c.pending, p...)
	for len(c.pending) >= 5 {
		size := int(binary.BigEndian.Uint32(c.pending[1:])) + 1
		if len(c.pending) < size {
			return
		}
		typ := c.pending[0]
		c.pending = c.pending[size:]
		if typ == 'Z' && (len(c.pending) > 0 || len(p) > size || more && len(p) == size) {
			c.t.Errorf("a Read of %q is more than a ReadyForQuery", shown(p))
		}
	}
}

// run plays a conversation.
func (c conversation) run(t *testing.T, active bool, cut func(offset, available int) int) outcome {
	t.Helper()
	var answers [][]byte
	for _, s := range c.steps {
		answers = append(answers, join(s.server...))
	}
	heard := newEvents()
	conn := wire.NewConn(newScript(cut, answers...), heard)
	defer conn.Close()
	cl := &client{t: t, conn: conn, buf: make([]byte, 4096)} // lib/pq's buffer
	if c.large && rand.IntN(2) == 0 {
		cl.buf = make([]byte, 1<<20) // or a large row's
	}
	var o outcome
	for i, s := range c.steps {
		conn.BeginOperation()
		conn.WantCopy()
		if c.drops {
			conn.DropRows()
		}
		if _, err := conn.Write(s.request); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got, err := cl.readAnswer(len(s.forwarded()))
		if err != nil {
			t.Fatalf("step %d: %v after %q, want %q", i, err, shown(got), shown(s.forwarded()))
		}
		o.forwarded = append(o.forwarded, string(got))
		if active && conn.Status() != 0 && !conn.Activate() && !conn.Busy() && conn.Loss() == nil {
			t.Fatalf("step %d: not active", i)
		}
	}
	wire.Expect(conn)
	rest, err := cl.readAnswer(1 << 30)
	o.forwarded[len(o.forwarded)-1] += string(rest)
	o.lost = err.Error()
	o.events = heard.snapshot()
	o.status, o.listened = conn.Status(), conn.Listened()
	o.pid, _ = conn.Backend()
	o.params = paramList(conn.Parameter)
	if loss := conn.Loss(); loss != nil && loss.Fatal != nil {
		o.fatal = string(loss.Fatal.Code)
	}
	return o
}

// shown makes what is long fit for a message.
func shown(b []byte) []byte { return b[:min(len(b), 200)] }

func compare(t *testing.T, got, want outcome) {
	t.Helper()
	for i := range want.forwarded {
		if i >= len(got.forwarded) || got.forwarded[i] != want.forwarded[i] {
			t.Fatalf("step %d: forwarded %d bytes %q,\nwant %d bytes %q", i, len(got.forwarded[i]), shown([]byte(got.forwarded[i])), len(want.forwarded[i]), shown([]byte(want.forwarded[i])))
		}
	}
	if !slices.Equal(got.events, want.events) {
		t.Fatalf("%d events %.300q,\nwant %d %.300q", len(got.events), got.events, len(want.events), want.events)
	}
	got.forwarded, got.events, want.forwarded, want.events = nil, nil, nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("notes %+v,\nwant  %+v", got, want)
	}
}

// TestConversations is F2: however the stream is cut, the same comes out, and a
// ReadyForQuery comes in a Read of its own.
func TestConversations(t *testing.T) {
	t.Parallel()
	for _, c := range conversations() {
		for _, active := range []bool{false, true} {
			mode := map[bool]string{false: "passive", true: "active"}[active]
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				c.everyCut(t, func(cut func(offset, available int) int) {
					t.Helper()
					compare(t, c.run(t, active, cut), c.expected())
				})
			})
		}
	}
}

// everyCut calls f with every way to cut the conversation; a large one is cut
// at some places only.
func (c conversation) everyCut(t *testing.T, f func(cut func(offset, available int) int)) {
	f(whole)
	total := 0
	for _, s := range c.steps {
		total += len(join(s.server...))
	}
	f(func(offset, available int) int {
		if edge := 50_000; offset > edge && offset < total-edge {
			return min(available, 997) // the midst of something large
		}
		return 1
	})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 10 {
		f(func(offset, available int) int {
			if c.large && offset > 100_000 {
				return min(available, 1000+random.IntN(2000))
			}
			return min(available, 2+random.IntN(16))
		})
	}
	if !c.large {
		for at := 1; at < total; at++ {
			f(cutAt(at))
		}
		return
	}
	for range 8 {
		f(cutAt(1 + random.IntN(total-1)))
	}
}

// TestNoticeBeforeReady is M3: what comes before a ReadyForQuery has been heard
// when that is read.
func TestNoticeBeforeReady(t *testing.T) {
	t.Parallel()
	for _, active := range []bool{false, true} {
		heard := newEvents()
		conn := wire.NewConn(newScript(whole, join(greeting()...), join(rowDesc, notice("1"), tag("SELECT 0"), note("a", "2"), idle)), heard)
		cl := &client{t: t, conn: conn, buf: make([]byte, 4096)}
		mustAsk(t, cl, startupPacket, join(greeting()...))
		if active && !conn.Activate() {
			t.Fatal("not active")
		}
		mustAsk(t, cl, query("SELECT"), join(rowDesc, tag("SELECT 0"), idle))
		if got, want := heard.snapshot(), []string{"N 1", "A a 2"}; !slices.Equal(got, want) {
			t.Errorf("active %v: heard %q, want %q", active, got, want)
		}
		conn.Close()
	}
}

// mustAsk sends a request and reads the answer, which must be want.
func mustAsk(t *testing.T, cl *client, request, want []byte) {
	t.Helper()
	if _, err := cl.conn.Write(request); err != nil {
		t.Fatal(err)
	}
	got, err := cl.readAnswer(len(want))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", shown(got), shown(want))
	}
}

var _ net.Conn = (*script)(nil)
