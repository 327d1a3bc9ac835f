package pgnotify_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// Parameters that lib/pq does not know.
func TestParseConfigParameters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dsn  string
		want pgnotify.Config
	}{
		{"", pgnotify.Config{}},
		{"keepalives=1", pgnotify.Config{}},
		{"keepalives=0", pgnotify.Config{KeepAlive: net.KeepAliveConfig{Idle: -1}}},
		{"keepalives=0 keepalives_idle=5 keepalives_count=2", pgnotify.Config{KeepAlive: net.KeepAliveConfig{Idle: -1}}},
		{"keepalives_idle=5 keepalives_interval=6 keepalives_count=7",
			pgnotify.Config{KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 6 * time.Second, Count: 7}}},
		{"keepalives_idle=0", pgnotify.Config{}},
		{"tcp_user_timeout=1500", pgnotify.Config{TCPUserTimeout: 1500 * time.Millisecond}},
		{"cancel_timeout=7", pgnotify.Config{CancelTimeout: 7 * time.Second}},
		{"statement_cache_size=17", pgnotify.Config{StatementCacheSize: 17}},
		{"statement_cache_size=0", pgnotify.Config{StatementCacheSize: -1}},
		{"statement_cache_size=-1", pgnotify.Config{StatementCacheSize: -1}},
		{"channel_binding=prefer", pgnotify.Config{}},
		{"channel_binding=disable", pgnotify.Config{}},
	} {
		for range 10 { // the order in which they are read is not fixed
			got, err := pgnotify.ParseConfig(c.dsn)
			if err != nil {
				t.Errorf("%q: %v", c.dsn, err)
				break
			}
			if got.KeepAlive != c.want.KeepAlive || got.TCPUserTimeout != c.want.TCPUserTimeout ||
				got.CancelTimeout != c.want.CancelTimeout || got.StatementCacheSize != c.want.StatementCacheSize {
				t.Errorf("%q: %+v %v %v %d", c.dsn, got.KeepAlive, got.TCPUserTimeout, got.CancelTimeout, got.StatementCacheSize)
			}
			if len(got.Runtime) > 0 {
				t.Errorf("%q: these would be sent to the server: %v", c.dsn, got.Runtime)
			}
		}
	}
}

func TestParseConfigForms(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		`host=db.example port=5433 user=u password='p w' dbname=d search_path=s keepalives_idle=3`,
		`postgres://u:p%20w@db.example:5433/d?search_path=s&keepalives_idle=3`,
		`postgresql://db.example/d?user=u&password=p+w&port=5433&search_path=s&keepalives_idle=3`,
	} {
		c, err := pgnotify.ParseConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		if c.Host != "db.example" || c.Port != 5433 || c.User != "u" || c.Password != "p w" || c.Database != "d" ||
			c.Runtime["search_path"] != "s" || c.KeepAlive.Idle != 3*time.Second {
			t.Errorf("%s: %+v, password %q, %v", dsn, c, c.Password, c.Runtime)
		}
	}
}

// C5
func TestParseConfigHostLists(t *testing.T) {
	t.Parallel()
	c, err := pgnotify.ParseConfig("host=a,,c port=1,,3")
	if err != nil {
		t.Fatal(err)
	}
	want := []pq.ConfigMultihost{{Host: "localhost", Port: 5432}, {Host: "c", Port: 3}}
	if c.Host != "a" || c.Port != 1 || !slices.Equal(c.Multi, want) {
		t.Errorf("%s:%d %v", c.Host, c.Port, c.Multi)
	}
	for _, dsn := range []string{"host=a,b port=1,2,3", "host=a,b hostaddr=127.0.0.1,127.0.0.2,127.0.0.3"} {
		if c, err := pgnotify.ParseConfig(dsn); err == nil {
			t.Errorf("%s: %+v", dsn, c)
		}
	}
}

// C1: bad parameters.
func TestParseConfigRefusesBadValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ dsn, want string }{
		{"keepalives=yes", `"keepalives"`},
		{"keepalives_idle=-1", `"keepalives_idle"`},
		{"keepalives_interval=soon", `"keepalives_interval"`},
		{"keepalives_count=1.5", `"keepalives_count"`},
		{"keepalives_count=99999999999", `"keepalives_count"`},
		{"tcp_user_timeout=1s", `"tcp_user_timeout"`},
		{"cancel_timeout=", `"cancel_timeout"`},
		{"statement_cache_size=many", `"statement_cache_size"`},
		{"channel_binding=require", `"channel_binding"`},
		{"channel_binding=perhaps", `"channel_binding"`},
		{"sslmode=sometimes", `"sslmode"`},
		{"sslmode=pqgo-mine", "Config.TLSConfig"},
		{"target_session_attrs=nice", `"target_session_attrs"`},
		{"load_balance_hosts=always", `"load_balance_hosts"`},
		{"port=http", `"port"`},
		{"port=65536", `"port"`},
		{"hostaddr=localhost", `"hostaddr"`},
		{"connect_timeout=soon", `"connect_timeout"`},
		{"client_encoding=LATIN1", "client_encoding"},
		{"sslmode=prefer sslnegotiation=direct", "sslnegotiation"},
		{"sslmode=require sslrootcert=system", "sslrootcert"},
	} {
		_, err := pgnotify.ParseConfig(c.dsn)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "pgnotify: ") {
			t.Errorf("%q: %v, want %s", c.dsn, err, c.want)
		}
	}
	for _, dsn := range []string{"channel_binding=require", "sslmode=pqgo-mine"} {
		if _, err := pgnotify.ParseConfig(dsn); !errors.Is(err, pgnotify.ErrNotSupported) {
			t.Errorf("%q: %v", dsn, err)
		}
	}
}

// C1: no part of a password is in an error, however the DSN is malformed.
func TestDSNErrorsHoldNoPassword(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		`password=hush hushhush host=x`,
		`password='hush host=x`,
		`password='hush' hushhush host=x`,
		`password='it's hush' host=x`,
		`password=hush\`,
		`host=x password=hush port=http`,
		`host=x password=hush sslmode=sometimes`,
		`host=x password=hush keepalives=7`,
		`host=x,y port=1,2,3 password=hush`,
		`postgres://u:hush@x:http/d`,
		`postgres://u:hu%zzsh@x/d`,
		`postgres://u:hush/hush@x/d`,
		`postgres://u:hush#hush@x/d`,
		`postgres://u:hush?hush@x/d`,
		`postgres://u:42/hush@x/d`,
		`postgres://u:42#hush@x/d`,
		`postgres://u:42?hush@x/d`,
		`postgres://u:42?hush=hush@x/d`,
		`postgres://x/d?password=42#hush`,
		`postgres://u:hush@[::1/d`,
		"postgres://u:hush\x7f@x/d",
		`postgres://u:hush@x/d?sslmode=sometimes`,
		` postgres://u:hush@x/d`,
		`postgres:/u:hush@x/d`,
		`mysql://u:hush@x/d`,
		`u:hush@x/d`,
	} {
		c, err := pgnotify.ParseConfig(dsn)
		if err == nil {
			t.Errorf("%q: no error, but %v", dsn, c)
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, format := range []string{"%v", "%+v", "%#v", "%q"} {
				if text := fmt.Sprintf(format, e); strings.Contains(text, "hush") {
					t.Errorf("%q: %s", dsn, text)
				}
			}
		}
	}
}

// Characters that are at home in a URL are left alone.
func TestParseConfigTakesUnusualURLs(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		`postgres://u:p%23%2F%3F%40@x:5432/d%40e`,
		`postgres://x:5432/d?user=me@here`,
		`postgres://u:p@x:5432/d@e?application_name=a@b`,
		`postgres:///d?host=/tmp`,
		`postgres://`,
	} {
		if _, err := pgnotify.ParseConfig(dsn); err != nil {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// C1: a Config shows no password, however it is printed.
func TestConfigPrintsNoPassword(t *testing.T) {
	t.Parallel()
	c, err := pgnotify.ParseConfig("host=db.example port=5433 user=u dbname=d password=hush")
	if err != nil {
		t.Fatal(err)
	}
	connector, err := pgnotify.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "pointer", c, "value", *c)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "pointer", c, "value", *c)
	texts := []string{logged.String()}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, c); !strings.Contains(text, "db.example:5433") {
			t.Errorf("%s names no server: %s", format, text)
		}
		for _, v := range []any{c, *c, []*pgnotify.Config{c}, struct{ C pgnotify.Config }{*c}, connector, *connector} {
			texts = append(texts, fmt.Sprintf(format, v))
		}
	}
	for _, text := range texts {
		if strings.Contains(text, "hush") {
			t.Error(text)
		}
	}
}

func TestConfigIsClonedByNewConnector(t *testing.T) {
	t.Parallel()
	c, err := pgnotify.ParseConfig(dsn(t) + " application_name=before")
	if err != nil {
		t.Fatal(err)
	}
	connector, err := pgnotify.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Host, c.Port, c.User, c.ApplicationName = "changed.invalid", 1, "changed", "after"
	c.Runtime["nonsense"] = "x"
	c.Multi = append(c.Multi, pq.ConfigMultihost{Host: "x"})
	db := openConnector(t, connector)
	if got := queryValue[string](t, db, "show application_name"); got != "before" {
		t.Errorf("application_name is %s", got)
	}
}

func TestNewConnectorRefusesNil(t *testing.T) {
	t.Parallel()
	if _, err := pgnotify.NewConnector(nil); err == nil {
		t.Error("no error")
	}
}

// A Config made by hand gets the defaults that its comments state.
func TestConfigMadeByHand(t *testing.T) {
	t.Parallel()
	parsed, err := pgnotify.ParseConfig(dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &pgnotify.Config{Config: pq.Config{
		Host: parsed.Host, Port: parsed.Port, User: parsed.User, Password: parsed.Password, Database: parsed.Database,
	}}
	connector, err := pgnotify.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := openConnector(t, connector)
	if got := queryValue[string](t, db, "select 'ü'"); got != "ü" {
		t.Errorf("got %q", got)
	}
	if got, want := queryValue[string](t, db, "show application_name"), defaultAppName(); got != want {
		t.Errorf("application_name is %q, want %q", got, want)
	}
	if server(t).ca != "" && !encrypted(t, db) {
		t.Error("an empty SSLMode is not prefer")
	}
}

func defaultAppName() string {
	name := filepath.Base(os.Args[0])
	return name[:min(len(name), 63)]
}

func TestApplicationName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parameters, want string }{
		{"", defaultAppName()},
		{" application_name=mine", "mine"},
		{" fallback_application_name=other", "other"},
		{" fallback_application_name=other application_name=mine", "mine"},
	} {
		connector, err := (&pgnotify.Driver{}).OpenConnector(dsn(t) + c.parameters)
		if err != nil {
			t.Fatal(err)
		}
		if got := queryValue[string](t, openConnector(t, connector), "show application_name"); got != c.want {
			t.Errorf("%q: %q, want %q", c.parameters, got, c.want)
		}
	}
}

// A unix socket in front of a list takes TLS from none of the others.
func TestSSLModeOfAListThatBeginsWithASocket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dsn  string
		want pq.SSLMode
	}{
		{"host=/tmp,db.example sslmode=verify-full", pq.SSLModeVerifyFull},
		{"host=/tmp,db.example", ""},
		{"postgres:///d?host=/tmp,db.example&sslmode=require", pq.SSLModeRequire},
		{"host=/tmp sslmode=require", pq.SSLModeDisable},
		{"host=/tmp,x hostaddr=127.0.0.1,127.0.0.2 sslmode=require", pq.SSLModeRequire},
	} {
		got, err := pgnotify.ParseConfig(c.dsn)
		if err != nil || got.SSLMode != c.want {
			t.Errorf("%s: %v, %v; want %q", c.dsn, got, err, c.want)
		}
	}
	got, err := pgnotify.ParseConfig("host=/tmp,x hostaddr=127.0.0.1,127.0.0.2")
	if err != nil || got.Hostaddr != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("%v, %v", got, err)
	}
}
