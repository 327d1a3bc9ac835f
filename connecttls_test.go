package pgnotify_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

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
	if serverVersion(t, open(t, s.dsn)) < 17 {
		if err := connectError(t, dsn); !strings.Contains(err.Error(), strconv.Itoa(s.Port())) {
			t.Errorf("got %v", err)
		}
		return
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
