package pgnotify_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// authentication returns a request for it (or, with 0, the end of it).
func authentication(code uint32, body string) []byte {
	return pgfake.Frame('R', string(binary.BigEndian.AppendUint32(nil, code))+body)
}

// Codes of authentication requests:
// https://www.postgresql.org/docs/current/protocol-message-formats.html
const (
	authOK, authKerberos, authPassword, authMD5        = 0, 2, 3, 5
	authGSS, authGSSContinue, authSSPI                 = 7, 8, 9
	authSASL, authSASLContinue, authSASLFinal          = 10, 11, 12
	scramSHA256                                 string = "SCRAM-SHA-256\x00\x00"
)

// A silence is a way not to answer, at some point on the way to a session.
type silence struct {
	parameters string        // of the DSN
	before     []pgfake.Step // what the server does before
}

// silences returns all of them.
func silences(t testing.TB) map[string]silence {
	startup, tls := pgfake.Startup(), pgfake.StartTLS(fakeTLS(t, nil))
	said := func(frames ...[]byte) []pgfake.Step { return []pgfake.Step{startup, pgfake.Send(frames...)} }
	ok := authentication(authOK, "")
	return map[string]silence{
		"accepted":             {" sslmode=disable", nil},
		"accepted, allow":      {" sslmode=allow", nil},
		"accepted, prefer":     {" sslmode=prefer", nil},
		"accepted, direct TLS": {" sslmode=require sslnegotiation=direct", nil},
		"handshake":            {" sslmode=require", []pgfake.Step{pgfake.AgreeTLS()}},
		"handshake, prefer":    {" sslmode=prefer", []pgfake.Step{pgfake.AgreeTLS()}},
		"half a handshake":     {" sslmode=require", []pgfake.Step{pgfake.AgreeTLS(), pgfake.Send([]byte("\x16\x03\x03\x01\x00\x02"))}},
		"half an error for S":  {" sslmode=require", []pgfake.Step{pgfake.Send([]byte("Ecould not"))}},
		"TLS":                  {" sslmode=require", []pgfake.Step{tls}},
		"TLS, start-up":        {" sslmode=prefer", []pgfake.Step{tls, startup}},
		"start-up":             {"", []pgfake.Step{startup}},
		"start-up, N before":   {" sslmode=prefer", []pgfake.Step{startup}},
		"version":              {"", said(pgfake.Frame('v', "\x00\x00\x00\x00\x00\x00\x00\x00"))},
		"password":             {" password=hush", said(authentication(authPassword, ""))},
		"md5":                  {" password=hush", said(authentication(authMD5, "salt"))},
		"SASL":                 {" password=hush", said(authentication(authSASL, scramSHA256))},
		"half a header":        {"", said([]byte("R\x00"))},
		"half a message":       {"", said(pgfake.RawFrame('R', 8, "\x00\x00"))},
		"half of a key":        {"", said(ok, pgfake.RawFrame('K', 12, "\x00\x00\x12"))},
		"half an error":        {"", said(pgfake.RawFrame('E', 1000, "SFATAL\x00C28000\x00Mgo"))},
		"half a notice":        {"", said(ok, pgfake.RawFrame('N', 100_000, "SNOTICE\x00Mlong"))},
		"authenticated":        {"", said(ok)},
		"parameters":           {"", said(ok, pgfake.Parameter("server_version", "15.0"))},
		"ready, but not read":  {"", said(ok, pgfake.RawFrame('Z', 5, ""))},
		"asked for its kind":   {" target_session_attrs=primary", []pgfake.Step{pgfake.Greet(), pgfake.Await('Q')}},
		"half an answer to it": {" target_session_attrs=read-only",
			[]pgfake.Step{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(pgfake.Columns("one"))}},
		"chattering": {"", []pgfake.Step{startup, pgfake.Send(ok), repeat(pgfake.Notice("NOTICE", "00000", "still there"))}},
	}
}

// repeat sends frames again and again until nobody takes them.
func repeat(frames ...[]byte) pgfake.Step {
	return func(c *pgfake.Session) error {
		for pgfake.Send(frames...)(c) == nil {
		}
		return nil
	}
}

// C2: a deaf server, in each phase: connect_timeout holds, the context's deadline
// and its cancellation do. The error says which, and where; there is one attempt.
func TestDeafServer(t *testing.T) {
	t.Parallel()
	for name, silence := range silences(t) {
		for _, end := range []string{"timeout", "deadline", "cancelled"} {
			t.Run(name+"/"+end, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancelCause(testContext(t))
				defer cancel(nil)
				why := errors.New("no patience")
				reached := func(*pgfake.Session) error {
					if end == "cancelled" {
						cancel(why)
					}
					return nil
				}
				script := append(pgfake.Script{}, silence.before...)
				if name == "chattering" {
					script = append(pgfake.Script{script[0], reached}, script[1:]...)
				} else {
					script = append(script, reached, pgfake.Drain())
				}
				fake := pgfake.Start(t, script)
				wants, is, timeout := []string{"pgnotify: ", fake.Addr()}, context.DeadlineExceeded, time.Duration(0)
				switch end {
				case "timeout":
					timeout = 60 * time.Millisecond
					wants = append(wants, "connect_timeout of 60ms")
				case "deadline":
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, 60*time.Millisecond)
					defer stop()
				case "cancelled":
					wants, is = append(wants, why.Error()), context.Canceled
				}
				_, err := connector(t, fake.DSN()+silence.parameters, within(timeout)).Connect(ctx)
				if !errors.Is(err, is) {
					t.Fatalf("got %v", err)
				}
				wantInOrder(t, err, wants...)
				if strings.Contains(err.Error(), "hush") {
					t.Error(err)
				}
				if n := fake.Sessions(); n > 1 {
					t.Errorf("%d connections", n)
				}
			})
		}
	}
}

// C2: a dial that does not end.
func TestDeafDial(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"timeout", "deadline", "cancelled"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			option, is := within(0), context.DeadlineExceeded
			switch end {
			case "timeout":
				option = within(50 * time.Millisecond)
			case "deadline":
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			case "cancelled":
				is = context.Canceled
			}
			_, err := connector(t, listDSN(t, "far.test:17"), option, func(c *pgnotify.Config) {
				c.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					if end == "cancelled" {
						cancel()
					}
					<-ctx.Done()
					return nil, errors.New("gave up")
				}
			}).Connect(ctx)
			if !errors.Is(err, is) {
				t.Errorf("got %v", err)
			}
			wantInOrder(t, err, "far.test:17")
		})
	}
}

// C2: connect_timeout is over when the session is there.
func TestConnectTimeoutEndsWithTheStart(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.WaitFor(answer),
		pgfake.Send(pgfake.Complete("SELECT 0"), pgfake.Ready('I')), pgfake.Serve()})
	const timeout = 300 * time.Millisecond
	db := open(t, fake.DSN(), within(timeout))
	s := take(t, db)
	time.AfterFunc(2*timeout, func() { close(answer) }) // later than the timeout
	mustExec(t, s, "select")
}

// C1, C2: what a broken or hostile server says at the start ends in an error that
// can be read and names the server, and at once.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	ok := authentication(authOK, "")
	ready := pgfake.Ready('I')
	for name, c := range map[string]struct {
		answer []byte
		want   string
	}{
		"authentication of no kind":       {authentication(99, ""), "authentication"},
		"authentication of 2^31-1":        {authentication(1<<31-1, ""), "authentication"},
		"authentication of -1":            {authentication(1<<32-1, ""), "authentication"},
		"Kerberos":                        {authentication(authKerberos, ""), "authentication"},
		"GSSAPI":                          {authentication(authGSS, ""), "kerberos"},
		"GSSAPI goes on":                  {authentication(authGSSContinue, "x"), "GSSAPI"},
		"SSPI":                            {authentication(authSSPI, ""), "authentication"},
		"no authentication code":          {pgfake.Frame('R', ""), ""},
		"half an authentication code":     {pgfake.Frame('R', "\x00\x00"), ""},
		"md5 without salt":                {authentication(authMD5, ""), ""},
		"md5 with half a salt":            {authentication(authMD5, "sa"), ""},
		"SASL out of the blue":            {authentication(authSASLContinue, "r=x,s=eA==,i=1"), "authentication"},
		"SASL ends out of the blue":       {authentication(authSASLFinal, "v=eA=="), "authentication"},
		"a wrong answer to SASL":          {slices.Concat(authentication(authSASL, scramSHA256), authentication(authMD5, "salt")), "authentication"},
		"SASL without a nonce":            {slices.Concat(authentication(authSASL, scramSHA256), authentication(authSASLContinue, "")), "SCRAM"},
		"SASL with another's nonce":       {slices.Concat(authentication(authSASL, scramSHA256), authentication(authSASLContinue, "r=x,s=eA==,i=4096")), "SCRAM"},
		"ready in place of SASL":          {slices.Concat(authentication(authSASL, scramSHA256), ready), ""},
		"2 GB of authentication":          {pgfake.RawFrame('R', 1<<31-1, "\x00\x00\x00\x00"), "protocol error"},
		"4 GB of authentication":          {pgfake.RawFrame('R', 1<<32-1, "\x00\x00\x00\x00"), "protocol error"},
		"authentication of length 0":      {pgfake.RawFrame('R', 0, ""), "protocol error"},
		"authentication of length 3":      {pgfake.RawFrame('R', 3, ""), "protocol error"},
		"2 GB of parameter":               {slices.Concat(ok, pgfake.RawFrame('S', 1<<31-1, "")), "protocol error"},
		"2 GB of notice":                  {slices.Concat(ok, pgfake.RawFrame('N', 1<<31-1, "")), "protocol error"},
		"2 GB of error":                   {slices.Concat(ok, pgfake.RawFrame('E', 1<<31-1, "")), "protocol error"},
		"2 GB of row":                     {slices.Concat(ok, pgfake.RawFrame('D', 1<<31-1, "")), "protocol error"},
		"2 GB of something":               {slices.Concat(ok, pgfake.RawFrame('?', 1<<31-1, "")), "protocol error"},
		"a parameter without terminators": {slices.Concat(ok, pgfake.Frame('S', "x")), "protocol error"},
		"a key without a key":             {slices.Concat(ok, pgfake.Frame('K', "\x00\x00\x00\x01")), "protocol error"},
		"a key of 257 bytes":              {slices.Concat(ok, pgfake.Frame('K', strings.Repeat("k", 4+257))), "protocol error"},
		"a notification without end":      {slices.Concat(ok, pgfake.Frame('A', "\x00\x00\x00\x01x")), "protocol error"},
		"a notice without end":            {slices.Concat(ok, pgfake.Frame('N', "Mx")), "protocol error"},
		"an error without fields":         {slices.Concat(ok, pgfake.Frame('E', "\x00")), ""},
		"ready with a bad status":         {slices.Concat(ok, pgfake.Ready('?')), "protocol error"},
		"ready without a status":          {slices.Concat(ok, pgfake.Frame('Z', "")), "protocol error"},
		"a row":                           {slices.Concat(ok, pgfake.Row("1")), "during the start-up"},
		"COPY":                            {slices.Concat(ok, pgfake.CopyIn(1)), "during the start-up"},
		"a command's end":                 {slices.Concat(ok, pgfake.Complete("SELECT 1")), "during the start-up"},
		"no version":                      {pgfake.Frame('v', ""), ""},
		"half a version":                  {pgfake.Frame('v', "\x00\x00"), ""},
		"a version without a count":       {pgfake.Frame('v', "\x00\x00\x00\x00"), "protocol error"},
		"more names than there are":       {pgfake.Frame('v', "\x00\x00\x00\x00\x7f\xff\xff\xff"), "protocol error"},
		"a version of 2 GB":               {pgfake.RawFrame('v', 1<<31-1, "\x00\x00\x00\x00"), "protocol error"},
		"version 3.-1":                    {slices.Concat(pgfake.Frame('v', "\xff\xff\xff\xff\x00\x00\x00\x00"), pgfake.Frame('?', "")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(c.answer), pgfake.Drain()})
			err := connectError(t, fake.DSN()+" password=hush")
			wantInOrder(t, err, "pgnotify: ", fake.Addr())
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("no %q in: %v", c.want, err)
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it came with the deadline: %v", err)
			}
			t.Log(err)
		})
	}
}

// A server that offers an older version of the protocol, or does not know a
// parameter, is one that a session can be had with.
func TestNegotiateProtocolVersion(t *testing.T) {
	t.Parallel()
	for name, offer := range map[string]string{
		"nothing":          "\x00\x00\x00\x00\x00\x00\x00\x00",
		"a parameter":      "\x00\x00\x00\x00\x00\x00\x00\x01_pq_.x\x00",
		"a future version": "\x00\x00\x00\x63\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('v', offer), authentication(authOK, ""),
				pgfake.Frame('K', "\x00\x00\x12\x67key!"), pgfake.Ready('I')), pgfake.Serve()})
			mustPing(t, open(t, fake.DSN()+" max_protocol_version=latest"))
		})
	}
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('v', "\x00\x00\x00\x00\x00\x00\x00\x00")), pgfake.Drain()})
	err := connectError(t, fake.DSN()+" min_protocol_version=3.2 max_protocol_version=3.2")
	wantInOrder(t, err, fake.Addr(), "min_protocol_version")
}

// C2: a server that never comes to an end is left in time, with bounded memory.
func TestEndlessServer(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string][]byte{
		"authentication": authentication(authOK, ""),
		"md5":            authentication(authMD5, "salt"),
		"versions":       pgfake.Frame('v', "\x00\x00\x00\x00\x00\x00\x00\x00"),
		"parameters":     pgfake.Parameter("server_version", "15.0"),
		"notifications":  pgfake.Notification(1, "c", "p"),
		"keys":           pgfake.Frame('K', "\x00\x00\x12\x67key!"),
		"an error":       []byte(strings.Repeat("x", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := pgfake.Send()
			switch name {
			case "an error": // whose length seems to be text
				begin = pgfake.Send([]byte("Ecould not"))
			case "parameters", "notifications", "keys":
				begin = pgfake.Send(authentication(authOK, ""))
			}
			var read sync.WaitGroup
			reading := func(c *pgfake.Session) error { // answers are taken, so that the client is not held up
				read.Go(func() { _ = pgfake.Drain()(c) })
				return nil
			}
			fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(), reading, begin, repeat(frame)})
			err := connectError(t, fake.DSN()+" password=hush", within(200*time.Millisecond))
			wantInOrder(t, err, "pgnotify: ", fake.Addr())
			if len(err.Error()) > 40_000 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
			read.Wait()
			t.Logf("%.200s", err.Error())
		})
	}
}
