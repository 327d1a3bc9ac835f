package pgnotify_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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

// encrypted reports whether a pool's sessions have TLS.
func encrypted(t testing.TB, db *sql.DB) bool {
	t.Helper()
	return queryValue[bool](t, db, "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
}

// C10: a server with TLS.
func TestSSLModes(t *testing.T) {
	t.Parallel()
	s := ours(t)
	named := " host=localhost hostaddr=" + s.Host()
	wrong := " host=wrong.example hostaddr=" + s.Host()
	root := " sslrootcert=" + s.ca
	cert := " sslcert=" + s.clientCert + " sslkey=" + s.clientKey
	const plain, secure, refused = "plain", "TLS", "refused"
	for _, c := range []struct{ user, parameters, want string }{
		{"t_trust", "disable", plain},
		{"t_trust", "allow", plain},
		{"t_trust", "prefer", secure},
		{"t_trust", "require", secure},
		{"t_trust", "verify-ca" + root, secure},
		{"t_trust", "verify-ca" + root + wrong, secure},
		{"t_trust", "verify-full" + root + named, secure},
		{"t_trust", "verify-full" + root, secure}, // the certificate names the address
		{"t_trust", "verify-full" + root + wrong, refused},
		{"t_trust", "verify-full sslrootcert=/nowhere" + named, refused},
		{"t_trust", "require" + root + wrong, secure},
		{"t_trust", "require sslrootcert=" + s.clientCert, refused}, // as verify-ca
		{"t_trust", "verify-ca sslrootcert=" + s.clientCert, refused},

		{"t_hostssl", "disable", refused},
		{"t_hostssl", "allow", secure},
		{"t_hostssl", "prefer", secure},
		{"t_hostssl", "require", secure},
		{"t_hostnossl", "disable", plain},
		{"t_hostnossl", "allow", plain},
		{"t_hostnossl", "prefer", plain},
		{"t_hostnossl", "require", refused},

		{"t_cert", "require" + cert, secure},
		{"t_cert", "verify-full" + cert + root + named, secure},
		{"t_cert", "prefer" + cert, secure},
		{"t_cert", "allow" + cert, secure},
		{"t_cert", "require", refused},
		{"t_cert", "disable" + cert, refused},
		{"t_cert", "require sslcert=/nowhere sslkey=/nowhere", refused},
		{"t_scram", "prefer" + cert, secure},
	} {
		t.Run(c.user+"/"+strings.ReplaceAll(c.parameters, "/", "_"), func(t *testing.T) {
			t.Parallel()
			dsn := s.dsn + " user=" + c.user + " password=" + quote(testPassword) + " sslmode=" + c.parameters
			if c.want == refused {
				t.Log(connectError(t, dsn))
				return
			}
			if got := encrypted(t, open(t, dsn)); got != (c.want == secure) {
				t.Errorf("TLS: %v, want %s", got, c.want)
			}
		})
	}
}

// C10: without sslmode it is prefer, over a unix socket nothing is asked for.
func TestDefaultSSLMode(t *testing.T) {
	t.Parallel()
	s := ours(t)
	// A value given twice counts as given last, so sslmode is left out by hand.
	dsn := strings.ReplaceAll(s.dsn, "sslmode=disable", "")
	if !encrypted(t, open(t, dsn)) {
		t.Error("a server with TLS was reached without")
	}
	if s.SocketDir() == "" {
		t.Skip("the server has no socket here")
	}
	for _, sslmode := range []string{"disable", "prefer", "require", "verify-full"} {
		db := open(t, s.dsn+" host="+s.SocketDir()+" sslmode="+sslmode)
		if got := queryValue[bool](t, db, "select inet_server_addr() is null"); !got {
			t.Errorf("%s: not over the socket", sslmode)
		}
	}
}

// C10: a server without TLS.
func TestSSLModesWithoutTLSOnTheServer(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	for _, sslmode := range []string{"disable", "allow", "prefer"} {
		if err := open(t, fake.DSN()+" sslmode="+sslmode).PingContext(testContext(t)); err != nil {
			t.Errorf("%s: %v", sslmode, err)
		}
	}
	for _, sslmode := range []string{"require", "verify-ca sslrootcert=" + server(t).ca, "verify-full sslrootcert=" + server(t).ca} {
		err := connectError(t, fake.DSN()+" sslmode="+sslmode)
		if !errors.Is(err, pq.ErrSSLNotSupported) || !strings.Contains(err.Error(), fake.Addr()) {
			t.Errorf("%s: %v", sslmode, err)
		}
	}
}

// C10
func TestVerifyFullTellsTheWrongName(t *testing.T) {
	t.Parallel()
	s := ours(t)
	err := connectError(t, s.dsn+" sslmode=verify-full host=wrong.example hostaddr="+s.Host()+" sslrootcert="+s.ca)
	if !strings.Contains(err.Error(), "wrong.example") || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("got %v", err)
	}
}

// C10: PostgreSQL 17 takes TLS without being asked.
func TestDirectNegotiation(t *testing.T) {
	t.Parallel()
	s := ours(t)
	dsn := s.dsn + " sslnegotiation=direct sslmode=require"
	if version := queryValue[int](t, open(t, s.dsn), "select current_setting('server_version_num')::int"); version < 170000 {
		if err := connectError(t, dsn); !strings.Contains(err.Error(), strconv.Itoa(s.Port())) {
			t.Errorf("got %v", err)
		}
		t.Skipf("PostgreSQL %d cannot", version)
	}
	for _, more := range []string{"", " sslmode=verify-full host=localhost hostaddr=" + s.Host() + " sslrootcert=" + s.ca} {
		if !encrypted(t, open(t, dsn+more)) {
			t.Error("no TLS")
		}
	}
	session := take(t, open(t, dsn))
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if _, err := session.ExecContext(ctx, "select pg_sleep(20)"); serverError(t, err).Code != "57014" {
		t.Errorf("cancelled: %v", err)
	}
}

// C10: Config.TLSConfig.
func TestTLSConfig(t *testing.T) {
	t.Parallel()
	s := ours(t)
	text, err := os.ReadFile(s.ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	with := func(config *tls.Config) func(*pgnotify.Config) {
		return func(c *pgnotify.Config) { c.TLSConfig = config }
	}
	dsn := strings.ReplaceAll(s.dsn, "sslmode=disable", "")
	if !encrypted(t, open(t, dsn, with(&tls.Config{RootCAs: roots}))) {
		t.Error("no TLS")
	}
	if !encrypted(t, open(t, dsn, with(&tls.Config{RootCAs: roots, ServerName: "localhost"}))) {
		t.Error("no TLS")
	}
	if err := connectError(t, dsn, with(&tls.Config{RootCAs: roots, ServerName: "wrong.example"})); !strings.Contains(err.Error(), "wrong.example") {
		t.Errorf("wrong name: %v", err)
	}
	err = connectError(t, dsn, with(&tls.Config{RootCAs: x509.NewCertPool()}))
	if _, ok := asError[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("unknown authority: %v", err)
	}
	pair, err := tls.LoadX509KeyPair(s.clientCert, s.clientKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	if got := queryValue[string](t, open(t, dsn+" user=t_cert", with(config)), "select current_user"); got != "t_cert" {
		t.Errorf("current_user is %s", got)
	}
	parsed, err := pgnotify.ParseConfig(dsn + " sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	parsed.TLSConfig = config
	if _, err := pgnotify.NewConnector(parsed); err == nil {
		t.Error("TLSConfig with sslmode=disable gave no error")
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

// C12
func TestBeforeConnect(t *testing.T) {
	t.Parallel()
	s := ours(t)
	var calls collector[string]
	var password atomic.Value
	password.Store("wrong")
	db := open(t, fmt.Sprintf("%s user=t_scram password=stale host=%s,%s port=%d,%d", s.dsn, s.Host(), s.Host(), closedPort(t), s.Port()),
		func(c *pgnotify.Config) {
			c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
				calls.add(fmt.Sprint(c.Port, len(c.Multi)))
				c.Password = password.Load().(string)
				c.Runtime["search_path"] = "rotated"
				return nil
			}
		})
	if err := db.PingContext(testContext(t)); serverError(t, err).Code != "28P01" {
		t.Errorf("with the wrong password: %v", err)
	}
	password.Store(testPassword)
	if got := queryValue[string](t, db, "show search_path"); got != "rotated" {
		t.Errorf("search_path is %s", got)
	}
	list := calls.all()
	if last := fmt.Sprint(s.Port(), 0); len(list) != 4 || list[1] != last || list[3] != last {
		t.Errorf("calls: %q", list)
	}

	mine := &tls.Config{ServerName: "mine"}
	err := connectError(t, dsn(t)+" sslmode=require", func(c *pgnotify.Config) {
		c.TLSConfig = mine
		c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
			c.TLSConfig.ServerName = "for this attempt"
			return errors.New("enough")
		}
	})
	if err == nil || mine.ServerName != "mine" {
		t.Errorf("%v, the TLSConfig was changed to %q", err, mine.ServerName)
	}

	refused := errors.New("no credentials today")
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	err = connectError(t, fake.DSN(), func(c *pgnotify.Config) {
		c.BeforeConnect = func(context.Context, *pgnotify.Config) error { return refused }
	})
	if !errors.Is(err, refused) || fake.Sessions() != 0 {
		t.Errorf("%v, %d sessions", err, fake.Sessions())
	}
}

func TestOnConnect(t *testing.T) {
	t.Parallel()
	var pids collector[uint32]
	db := open(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(ctx context.Context, conn *pgnotify.Conn) error {
			pids.add(conn.PID())
			_, err := conn.ExecContext(ctx, "set search_path = prepared", nil)
			return err
		}
	})
	s := take(t, db)
	if got := queryValue[string](t, s, "show search_path"); got != "prepared" {
		t.Errorf("search_path is %s", got)
	}
	if list := pids.all(); !slices.Equal(list, []uint32{s.pc.PID()}) {
		t.Errorf("called for %v, the session is %d", list, s.pc.PID())
	}

	refused := errors.New("I do not like it")
	var conn atomic.Pointer[pgnotify.Conn]
	err := connectError(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error {
			conn.Store(c)
			return refused
		}
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if status := conn.Load().TransactionStatus(); status != pgnotify.TransactionUnknown {
		t.Errorf("the session is %v", status)
	}

	connector := connector(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error {
			conn.Store(c)
			panic("I do not like it")
		}
	})
	defer func() {
		if p := recover(); p == nil || conn.Load().TransactionStatus() != pgnotify.TransactionUnknown {
			t.Errorf("panic %v, the session is %v", p, conn.Load().TransactionStatus())
		}
	}()
	_, _ = connector.Connect(testContext(t))
}

func TestOnNotice(t *testing.T) {
	t.Parallel()
	var calls collector[string]
	db := open(t, dsn(t), func(c *pgnotify.Config) {
		c.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) { calls.add(fmt.Sprint(conn.PID(), " ", n.Message)) }
	})
	first, second := take(t, db), take(t, db)
	first.pc.AddNoticeHandler(func(n *pgnotify.Notice) { calls.add("handler " + n.Message) })
	mustExec(t, first, raise("notice", "one"))
	mustExec(t, second, raise("notice", "two"))
	want := []string{fmt.Sprint(first.pc.PID(), " one"), "handler one", fmt.Sprint(second.pc.PID(), " two")}
	if got := calls.all(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A handler of the start-up's notices may use the session, and has run when the
// pool gets it.
func TestHandlerOfStartupNoticesUsesTheSession(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(),
		pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"), pgfake.Parameter("server_version", "15.0"),
			pgfake.Frame('K', "\x00\x00\x00\x01key!"), pgfake.Notice("WARNING", "01000", "it expires soon"), pgfake.Ready('I')),
		pgfake.Serve()})
	heard := make(chan error, 1)
	take(t, open(t, fake.DSN(), func(c *pgnotify.Config) {
		c.OnNotice = func(conn *pgnotify.Conn, _ *pgnotify.Notice) { heard <- conn.Ping(testContext(t)) }
	}))
	select {
	case err := <-heard:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("the session was there before the handler had run")
	}
}
