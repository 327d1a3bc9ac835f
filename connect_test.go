package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// quote quotes a value of a DSN.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// ours skips a test that needs the users and the TLS of our own server.
func ours(t testing.TB) *testServer {
	t.Helper()
	s := server(t)
	if s.Server == nil {
		t.Skip("PGNOTIFY_TEST_DSN names a server that is not ours")
	}
	return s
}

// connectError returns the error of connecting with a DSN, which it must have.
func connectError(t testing.TB, dsn string, options ...func(*pgnotify.Config)) error {
	t.Helper()
	err := open(t, dsn, options...).PingContext(testContext(t))
	if err == nil {
		t.Fatalf("%s: connected", dsn)
	}
	return err
}

// C1
func TestConnectErrorsNameTheServerAndNoPassword(t *testing.T) {
	t.Parallel()
	s := ours(t)
	const hush = " password=hush"
	place := net.JoinHostPort(s.Host(), strconv.Itoa(s.Port()))
	closed := closedPort(t)
	for name, c := range map[string]struct {
		dsn  string
		want []string
		code string
		is   error
	}{
		"bad database":  {s.dsn + " user=t_trust dbname=nowhere" + hush, []string{place, "nowhere", "t_trust"}, "3D000", nil},
		"bad user":      {s.dsn + " user=t_nobody sslmode=disable" + hush, []string{place, "t_nobody"}, "", nil},
		"bad password":  {s.dsn + " user=t_scram" + hush, []string{place, "t_scram"}, "28P01", nil},
		"md5":           {s.dsn + " user=t_md5" + hush, []string{place, "t_md5"}, "28P01", nil},
		"plain":         {s.dsn + " user=t_password" + hush, []string{place, "t_password"}, "28P01", nil},
		"rejected":      {s.dsn + " user=t_reject" + hush, []string{place, "t_reject"}, "28000", nil},
		"bad parameter": {s.dsn + " user=t_trust nonsense=1" + hush, []string{place, "nonsense"}, "42704", nil},
		"bad value":     {s.dsn + " user=t_trust work_mem=tiny" + hush, []string{place, "work_mem"}, "22023", nil},
		"bad host":      {s.dsn + " host=nowhere.invalid" + hush, []string{fmt.Sprintf("nowhere.invalid:%d", s.Port())}, "", nil},
		"bad port":      {fmt.Sprintf("%s port=%d%s", s.dsn, closed, hush), []string{fmt.Sprintf("%s:%d", s.Host(), closed)}, "", syscall.ECONNREFUSED},
		"bad socket":    {s.dsn + " host=/nowhere" + hush, []string{fmt.Sprintf("/nowhere/.s.PGSQL.%d", s.Port())}, "", os.ErrNotExist},
		"none of two": {fmt.Sprintf("%s host=%s,%s port=%d,%d%s", s.dsn, s.Host(), s.Host(), closed, closed, hush),
			[]string{fmt.Sprintf("%s:%d", s.Host(), closed)}, "", syscall.ECONNREFUSED},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := connectError(t, c.dsn)
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
			if c.code != "" && string(serverError(t, err).Code) != c.code {
				t.Errorf("got SQLSTATE %s, want %s", serverError(t, err).Code, c.code)
			}
			if _, bare := err.(*pq.Error); c.code != "" && !bare {
				t.Errorf("programs that assert the type get %T", err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is no %v", err, c.is)
			}
			if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, "hush") {
				t.Error(text)
			}
		})
	}
}

// C1: the same over TLS and sockets, and through sql.Open.
func TestConnectErrorsNameTheServerEachWay(t *testing.T) {
	t.Parallel()
	s := ours(t)
	places := map[string]string{
		"tcp":  fmt.Sprintf("%s:%d", s.Host(), s.Port()),
		"tls":  fmt.Sprintf("localhost:%d", s.Port()),
		"unix": fmt.Sprintf("%s/.s.PGSQL.%d", s.SocketDir(), s.Port()),
	}
	for _, m := range modes(t) {
		for parameters, code := range map[string]string{
			" user=t_trust password=hush dbname=nowhere": "3D000",
			" user=t_trust password=hush nonsense=1":     "42704",
			" user=t_scram password=hush":                "28P01",
		} {
			if m.name == "unix" && code == "28P01" {
				continue // it trusts everybody
			}
			db, err := sql.Open(pgnotify.DriverName, m.dsn+parameters)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			err = db.PingContext(testContext(t))
			if string(serverError(t, err).Code) != code || !strings.Contains(err.Error(), places[m.name]) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%s: no %s, or no %s in: %v", m.name, code, places[m.name], err)
			}
		}
	}
}

// C1: good.
func TestConnect(t *testing.T) {
	eachMode(t, func(t *testing.T, db *sql.DB) {
		if err := db.PingContext(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if got := queryValue[string](t, db, "show application_name"); got != appName {
			t.Errorf("application_name is %s", got)
		}
	})
}

func TestDriverOpen(t *testing.T) {
	t.Parallel()
	conn, err := (&pgnotify.Driver{}).Open(dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (&pgnotify.Driver{}).Open("password=x y"); err == nil {
		t.Error("a malformed DSN gave no error")
	}
	db, err := sql.Open(pgnotify.DriverName, dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, ok := db.Driver().(*pgnotify.Driver); !ok {
		t.Errorf("the driver is %T", db.Driver())
	}
}

// closedPort returns a port on which nobody listens while the test runs: a
// connection has it.
func closedPort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().(*net.TCPAddr).Port
}

// C2, C9: the context's end, and connect_timeout, are told by the error.
func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Hang()})
	for _, sslmode := range []string{"disable", "prefer"} {
		t.Run(sslmode, func(t *testing.T) {
			t.Parallel()
			connector, err := (&pgnotify.Driver{}).OpenConnector(fake.DSN() + " sslmode=" + sslmode)
			if err != nil {
				t.Fatal(err)
			}
			why := errors.New("no patience")
			ctx, cancel := context.WithCancelCause(testContext(t))
			time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
			_, err = connector.Connect(ctx)
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || !strings.Contains(err.Error(), fake.Addr()) {
				t.Errorf("cancelled: %v", err)
			}
			if _, err = connector.Connect(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled before: %v", err)
			}
			connector, err = (&pgnotify.Driver{}).OpenConnector(fake.DSN() + " connect_timeout=1 sslmode=" + sslmode)
			if err != nil {
				t.Fatal(err)
			}
			_, err = connector.Connect(testContext(t))
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect_timeout of 1s") {
				t.Errorf("timeout: %v", err)
			}
		})
	}
}

// A dialed is what a DialContext was asked for.
type dialed struct{ network, address string }

func TestDialContext(t *testing.T) {
	t.Parallel()
	for _, m := range modes(t) {
		var calls collector[dialed]
		db := open(t, m.dsn, func(c *pgnotify.Config) {
			c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				calls.add(dialed{network, address})
				return new(net.Dialer).DialContext(ctx, network, address)
			}
		})
		s := take(t, db)
		ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
		defer cancel()
		if _, err := s.ExecContext(ctx, "select pg_sleep(20)"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", m.name, err)
		}
		list := calls.all()
		if len(list) < 2 || list[0] != list[1] {
			t.Errorf("%s: not asked for the cancel request: %v", m.name, list)
			continue
		}
		parsed, err := pgnotify.ParseConfig(m.dsn)
		if err != nil {
			t.Fatal(err)
		}
		want := dialed{"tcp", net.JoinHostPort(parsed.Host, strconv.Itoa(int(parsed.Port)))}
		if parsed.Hostaddr.IsValid() {
			want.address = net.JoinHostPort(parsed.Hostaddr.String(), strconv.Itoa(int(parsed.Port)))
		}
		if strings.HasPrefix(parsed.Host, "/") {
			want = dialed{"unix", fmt.Sprintf("%s/.s.PGSQL.%d", parsed.Host, parsed.Port)}
		}
		if list[0] != want {
			t.Errorf("%s: %v, want %v", m.name, list[0], want)
		}
	}
	broken := errors.New("the tunnel is down")
	err := connectError(t, dsn(t), func(c *pgnotify.Config) {
		c.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, broken }
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// C13
func TestServerThatCannotFork(t *testing.T) {
	t.Parallel()
	const text = "could not fork new process for connection: Resource temporarily unavailable"
	for _, sslmode := range []string{"disable", "prefer", "require"} {
		for form, message := range map[string]string{"newline": "E" + text + "\n\x00", "zero": "E" + text + "\x00"} {
			fake := pgfake.Start(t, pgfake.Script{pgfake.Send([]byte(message))})
			err := connectError(t, fake.DSN()+" sslmode="+sslmode)
			if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), fake.Addr()) {
				t.Errorf("%s, %s: %v", sslmode, form, err)
			}
		}
	}
}

// C1: servers of other kinds.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script pgfake.Script
		want   string
	}{
		"HTTP":                {pgfake.Script{pgfake.Send([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))}, ""},
		"SSH":                 {pgfake.Script{pgfake.Send([]byte("SSH-2.0-OpenSSH_9.2p1 Debian\r\n")), pgfake.Drain()}, ""},
		"MySQL":               {pgfake.Script{pgfake.Send([]byte("J\x00\x00\x00\x0a8.0.36\x00")), pgfake.Drain()}, ""},
		"closes":              {pgfake.Script{}, "closed the connection"},
		"closes when asked":   {pgfake.Script{pgfake.Startup()}, "closed the connection"},
		"resets":              {pgfake.Script{pgfake.Reset()}, "reset"},
		"closes before ready": {pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"))}, "closed the connection"},
	} {
		for _, sslmode := range []string{"disable", "prefer"} {
			t.Run(name+"/"+sslmode, func(t *testing.T) {
				t.Parallel()
				fake := pgfake.Start(t, c.script)
				err := connectError(t, fake.DSN()+" sslmode="+sslmode)
				want := c.want
				if want == "" {
					want = "PostgreSQL" // "not PostgreSQL's", "not a PostgreSQL server"
				}
				if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fake.Addr()) {
					t.Errorf("got %v, want %q and the place", err, want)
				}
			})
		}
	}
}

// C14
func TestAuthenticationMethods(t *testing.T) {
	t.Parallel()
	s := ours(t)
	for _, m := range modes(t) {
		users := []string{"t_md5", "t_scram", "t_password", "t_trust"}
		if m.name != "tcp" { // certificates are for TLS
			users = append(users, "t_cert")
		}
		for _, user := range users {
			t.Run(m.name+"/"+user, func(t *testing.T) {
				t.Parallel()
				dsn := m.dsn + " user=" + user
				switch {
				case user == "t_cert":
					dsn += " sslcert=" + s.clientCert + " sslkey=" + s.clientKey
				case user != "t_trust":
					dsn += " password=" + quote(testPassword)
				}
				session := take(t, open(t, dsn))
				if got := queryValue[string](t, session, "select session_user"); got != user {
					t.Errorf("session_user is %s", got)
				}
				if err := session.pc.Listen(testContext(t), uniqueName("c14")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
