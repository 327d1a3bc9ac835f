package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// libpq18 has a value for each parameter of libpq 18 that its default is not.
// https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
var libpq18 = map[string]string{
	"host": "h", "hostaddr": "127.0.0.1", "port": "1", "dbname": "d", "user": "u", "password": "hush",
	"passfile": "f", "require_auth": "scram-sha-256", "channel_binding": "require", "connect_timeout": "1",
	"client_encoding": "UTF8", "options": "-c a=b", "application_name": "a",
	"fallback_application_name": "a", "keepalives": "0", "keepalives_idle": "1", "keepalives_interval": "1",
	"keepalives_count": "1", "tcp_user_timeout": "1", "replication": "database", "gssencmode": "require",
	"sslmode": "require", "sslnegotiation": "direct", "sslcompression": "1", "sslcert": "f", "sslkey": "f",
	"sslkeylogfile": "f", "sslpassword": "hush", "sslcertmode": "require", "sslrootcert": "f", "sslcrl": "f",
	"sslcrldir": "f", "sslsni": "0", "requirepeer": "postgres", "ssl_min_protocol_version": "TLSv1.3",
	"ssl_max_protocol_version": "TLSv1.3", "min_protocol_version": "3.0", "max_protocol_version": "3.2",
	"krbsrvname": "k", "gsslib": "sspi", "gssdelegation": "1", "scram_client_key": "hush",
	"scram_server_key": "hush", "service": "", "servicefile": "f", "target_session_attrs": "primary",
	"load_balance_hosts": "random", "oauth_issuer": "https://x", "oauth_client_id": "id",
	"oauth_client_secret": "hush", "oauth_scope": "s",
}

// unsupported are parameters of libpq that pgnotify refuses, with the values that are
// accepted all the same.
var unsupported = map[string][]string{
	"require_auth": {""}, "requirepeer": {""}, "sslcertmode": {"", "allow"}, "sslcrl": {""}, "sslcrldir": {""},
	"sslpassword": {""}, "sslkeylogfile": {""}, "sslcompression": {"", "0"}, "scram_client_key": {""},
	"scram_server_key": {""}, "gssencmode": {"", "disable", "prefer"}, "gsslib": {"", "gssapi"},
	"gssdelegation": {"", "0"}, "oauth_issuer": {""}, "oauth_client_id": {""}, "oauth_client_secret": {""},
	"oauth_scope": {""}, "channel_binding": {"prefer", "disable"},
}

// A4: no parameter of libpq reaches the server as a setting, in whatever way it is given.
// libpq itself sends replication.
func TestNoParameterOfLibpqIsASetting(t *testing.T) {
	t.Parallel()
	for name, value := range libpq18 {
		_, refused := unsupported[name]
		for _, dsn := range []string{name + "=" + quote(value), "postgres:///d?" + name + "=" + strings.ReplaceAll(value, " ", "%20")} {
			c, err := pgnotify.ParseConfig(dsn)
			if refused {
				if !errors.Is(err, pgnotify.ErrNotSupported) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hush") {
					t.Errorf("%s: %v", dsn, err)
				}
				continue
			}
			if err != nil && name != "sslnegotiation" { // needs a stronger sslmode
				t.Errorf("%s: %v", dsn, err)
			} else if err == nil && name != "replication" && len(c.Runtime) > 0 {
				t.Errorf("%s: the server gets %v", dsn, c.Runtime)
			}
		}
		wantNoSetting(t, name)
		wantNoSetting(t, strings.ToUpper(name))
	}
	for _, name := range []string{"sslmod", "search_path", "work_mem", "my.password"} {
		if c, err := pgnotify.ParseConfig(name + "=x"); err != nil || c.Runtime[name] != "x" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"Password", "pasword", "passwrd", "sslpasword", "scram_clientkey", "PASSWORD", "SSLPassword"} {
		wantNoSetting(t, name)
		if c, err := pgnotify.ParseConfig(name + "=hush"); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

// wantNoSetting checks that a name is refused as a setting in a Config.
func wantNoSetting(t *testing.T, name string) {
	t.Helper()
	switch strings.ToLower(name) {
	case "application_name", "replication":
		return // the server takes them
	}
	for _, before := range []bool{false, true} {
		fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
		c, err := pgnotify.ParseConfig(fake.DSN())
		if err != nil {
			t.Fatal(err)
		}
		set := func(c *pgnotify.Config) { c.Runtime = map[string]string{name: "hush"} }
		if !before {
			set(c)
		} else {
			c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error { set(c); return nil }
		}
		err = openOnce(t, c)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), strings.ToLower(name)) && !strings.Contains(err.Error(), name) {
			t.Errorf("%s in BeforeConnect %v: %v", name, before, err)
		}
		if n := fake.Sessions(); n != 0 {
			t.Errorf("%s: the server was asked", name)
		}
	}
}

// openOnce opens a session with a Config and closes it.
func openOnce(t *testing.T, c *pgnotify.Config) error {
	t.Helper()
	connector, err := pgnotify.NewConnector(c)
	if err != nil {
		return err
	}
	conn, err := connector.Connect(testContext(t))
	if err != nil {
		return err
	}
	return conn.Close()
}

// A4: a value that asks for what happens anyway is taken, and not sent.
func TestHarmlessValuesOfUnsupportedParameters(t *testing.T) {
	t.Parallel()
	for name, values := range unsupported {
		for _, value := range values {
			c, err := pgnotify.ParseConfig(name + "=" + quote(value))
			if err != nil || len(c.Runtime) > 0 {
				t.Errorf("%s=%q: %v, %v", name, value, c, err)
			}
		}
	}
}

// A4: variables of the environment that protect are not ignored.
func TestUnsupportedVariables(t *testing.T) {
	for variable, value := range map[string]string{
		"PGREQUIREAUTH": "scram-sha-256", "PGREQUIREPEER": "postgres", "PGSSLCRL": "f", "PGSSLCRLDIR": "f",
		"PGSSLCERTMODE": "require", "PGGSSENCMODE": "require", "PGREQUIRESSL": "1", "PGSSLCOMPRESSION": "1",
		"PGGSSDELEGATION": "1", "PGGSSLIB": "sspi", "PGREALM": "R", "PGCHANNELBINDING": "require",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			if c, err := pgnotify.ParseConfig(""); !errors.Is(err, pgnotify.ErrNotSupported) || !strings.Contains(err.Error(), "$"+variable) {
				t.Errorf("%v, %v", c, err)
			}
		})
	}
}

// A7: libpq's variables for the versions of TLS, which lib/pq spells otherwise.
func TestTLSVersionsOfTheEnvironment(t *testing.T) {
	for value, want := range map[string]pq.SSLProtocolVersion{"TLSv1.3": "TLSv1.3", "tlsv1.2": "TLSv1.2", "TLSv1": "TLSv1.0", "": ""} {
		t.Setenv("PGSSLMINPROTOCOLVERSION", value)
		t.Setenv("PGSSLMAXPROTOCOLVERSION", value)
		c, err := pgnotify.ParseConfig("")
		if err != nil || c.SSLMinProtocolVersion != want || c.SSLMaxProtocolVersion != want {
			t.Errorf("%q: %v, %v", value, c, err)
		}
		c, err = pgnotify.ParseConfig("ssl_min_protocol_version=TLSv1.1")
		if err != nil || c.SSLMinProtocolVersion != "TLSv1.1" {
			t.Errorf("%q: %v, %v: the DSN does not count", value, c, err)
		}
	}
	t.Setenv("PGSSLMINPROTOCOLVERSION", "TLSv9")
	if _, err := pgnotify.ParseConfig(""); err == nil || !strings.Contains(err.Error(), "$PGSSLMINPROTOCOLVERSION") {
		t.Error(err)
	}
}

// serviceFile writes a service file and returns the parameters that name it.
func serviceFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "servicefile=" + quote(path)
}

// A5: what a service says counts over the environment, and the DSN over both.
func TestServiceFile(t *testing.T) {
	const text = "# x\nuser=none\n[other]\nuser=other\n\n[ mine ]\n# y\n user = me \nhost=a,b\nport=1,2\nport=3,4\n" +
		"keepalives_idle=7\nsslcrl=\noptions=-c a=b\n[mine]\ndbname=late\n"
	file := serviceFile(t, text)
	t.Setenv("PGUSER", "environment")
	t.Setenv("PGDATABASE", "environment")
	check := func(dsn, want string) {
		t.Helper()
		c, err := pgnotify.ParseConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			return
		}
		if got := fmt.Sprint(c, " ", c.Multi, " ", c.Options, " ", c.KeepAlive.Idle, " ", c.Runtime); got != want {
			t.Errorf("%s: %s, want %s", dsn, got, want)
		}
	}
	const servers = "a:1 user=me dbname=environment [{b invalid IP 2}] -c a=b 7s map[]"
	check(file+" service=mine", servers)
	check(file+" service=mine user=dsn host=c port=9", "c:9 user=dsn dbname=environment [] -c a=b 7s map[]")
	path := strings.Trim(strings.TrimPrefix(file, "servicefile="), "'")
	check("postgres:///?service=mine&servicefile="+path, servers)
	t.Setenv("PGSERVICE", "mine")
	t.Setenv("PGSERVICEFILE", path)
	check("", servers)
	check("service=other port=5", "localhost:5 user=other dbname=environment []  0s map[]")
	check("service=''", "localhost:5432 user=environment dbname=environment []  0s map[]")
	t.Setenv("PGSERVICEFILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("PGSYSCONFDIR", filepath.Dir(path))
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), "pg_service.conf")); err != nil {
		t.Fatal(err)
	}
	check("", servers)
	if _, err := pgnotify.ParseConfig("service=absent"); err == nil || !strings.Contains(err.Error(), `"absent"`) {
		t.Error(err)
	}
}

// A4: no error shows a line of a service file, each of which may hold a password.
func TestServiceFileErrorsShowNoLine(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"password hush", "=hush", "hu sh=hush", "hush=x", "postgres://u:hush@h/d?a=b", "Password=hush", "pasword=hush",
		"password=x\nhush", "service=hush", "servicefile=hush", "sslpassword=hush", "scram_client_key=hush", "require_auth=hush",
		"password=hu\x00sh", "password=hush\nport=http", "password=hush\nsslmode=x", "search_path=hush",
		"password=" + strings.Repeat("hush", 20_000),
	} {
		dsn := serviceFile(t, "[mine]\nuser=u\n"+line+"\n") + " service=mine"
		if c, err := pgnotify.ParseConfig(dsn); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%.40q: %v, %v", line, c, err)
		}
	}
}

// O7: a NUL in what ends with one on the wire is refused, before anybody is asked.
func TestNULInParameters(t *testing.T) {
	t.Parallel()
	names := []string{"user", "dbname", "password", "options", "application_name", "fallback_application_name", "search_path", "krbsrvname", "passfile", "host"}
	for _, name := range names {
		for form, dsn := range map[string]string{
			"pairs":   name + "=hu\x00sh",
			"quoted":  name + "='hu\x00sh'",
			"URL":     "postgres:///?" + name + "=hu%00sh",
			"service": serviceFile(t, "[mine]\n"+name+"=hu\x00sh\n") + " service=mine",
		} {
			if name == "search_path" && form == "service" {
				continue // has none
			}
			if c, err := pgnotify.ParseConfig(dsn); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hu") {
				t.Errorf("%s, %s: %v, %v", name, form, c, err)
			}
		}
	}
	for _, dsn := range []string{"postgres://u%00x@h/d", "postgres://u:hu%00sh@h/d", "postgres://h/d%00x", "postgres:///?a%00b=c", "a\x00b=c", "postgres://u@h%00x/d"} {
		if c, err := pgnotify.ParseConfig(dsn); err == nil || strings.Contains(err.Error(), "hu") {
			t.Errorf("%q: %v, %v", dsn, c, err)
		}
	}
}

// O7: the same for a Config made by hand, and for what BeforeConnect makes of one.
func TestNULInAConfig(t *testing.T) {
	t.Parallel()
	const bad = "hu\x00sh"
	for name, set := range map[string]func(*pgnotify.Config){
		"user":             func(c *pgnotify.Config) { c.User = bad },
		"dbname":           func(c *pgnotify.Config) { c.Database = bad },
		"password":         func(c *pgnotify.Config) { c.Password = bad },
		"options":          func(c *pgnotify.Config) { c.Options = bad },
		"application_name": func(c *pgnotify.Config) { c.ApplicationName = bad },
		"client_encoding":  func(c *pgnotify.Config) { c.ClientEncoding = bad },
		"datestyle":        func(c *pgnotify.Config) { c.Datestyle = bad },
		"work_mem":         func(c *pgnotify.Config) { c.Runtime = map[string]string{"work_mem": bad} },
		`work\x00_mem`:     func(c *pgnotify.Config) { c.Runtime = map[string]string{"work\x00_mem": "1"} },
		`invalid name ""`:  func(c *pgnotify.Config) { c.Runtime = map[string]string{"": "1"} },
	} {
		for _, before := range []bool{false, true} {
			fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
			c, err := pgnotify.ParseConfig(fake.DSN())
			if err != nil {
				t.Fatal(err)
			}
			if !before {
				set(c)
			} else {
				c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error { set(c); return nil }
			}
			err = openOnce(t, c)
			if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hu") {
				t.Errorf("%s in BeforeConnect %v: %v", name, before, err)
			}
			if n := fake.Sessions(); n != 0 {
				t.Errorf("%s: the server was asked", name)
			}
		}
	}
}
