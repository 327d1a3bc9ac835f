package pgnotify_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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

// C5: a number of hosts, addresses and ports that do not match is an error.
func TestParseConfigHostListsMismatch(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"host=a,b port=1,2,3":                         "3 port numbers to 2 hosts",
		"host=a,b,c port=1,2":                         "2 port numbers to 3 hosts",
		"host=a port=1,2":                             "2 port numbers to 1 hosts",
		"port=1,2":                                    "2 port numbers to 1 hosts",
		"hostaddr=127.0.0.1 port=1,2":                 "2 port numbers to 1 hosts",
		"hostaddr=127.0.0.1,127.0.0.2 port=1,2,3":     "3 port numbers to 2 hosts",
		"host=a,b hostaddr=127.0.0.1":                 "2 host names to 1 hostaddr values",
		"host=a hostaddr=127.0.0.1,127.0.0.2":         "1 host names to 2 hostaddr values",
		"host=a,b hostaddr=127.0.0.1,,127.0.0.3":      "2 host names to 3 hostaddr values",
		"postgres://a,b/d?port=1,2,3":                 "3 port numbers to 2 hosts",
		"postgres://a,b/d?hostaddr=127.0.0.1":         "2 host names to 1 hostaddr values",
		"postgres:///d?host=a&port=1,2":               "2 port numbers to 1 hosts",
		"host=a,b port=1,0":                           `"port"`,
		"host=a,b port=1,http":                        `"port"`,
		"host=a,b hostaddr=127.0.0.1,localhost":       `"hostaddr"`,
		"host=a,b hostaddr=127.0.0.1,127.0.0.1:54321": `"hostaddr"`,
	} {
		c, err := pgnotify.ParseConfig(dsn)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "pgnotify: ") {
			t.Errorf("%s: %v, %v", dsn, c, err)
		}
	}
}

// C5: an empty item means the default.
func TestParseConfigHostLists(t *testing.T) {
	t.Parallel()
	for dsn, want := range hostLists {
		checkServers(t, dsn, want)
	}
}

var hostLists = map[string]string{
	"":                              "localhost:5432",
	"host='' port=''":               "localhost:5432",
	"hostaddr=''":                   "localhost:5432",
	"host=a,,c port=1,,3":           "a:1 localhost:5432 c:3",
	"host=,b":                       "localhost:5432 b:5432",
	"host=a,b port=,2":              "a:5432 b:2",
	"host=a,b port=1":               "a:1 b:1",
	"host=a,b port=''":              "a:5432 b:5432",
	"host=a,b hostaddr=,127.0.0.2":  "a:5432 b:5432=127.0.0.2",
	"host=a,b hostaddr=127.0.0.1,":  "a:5432=127.0.0.1 b:5432",
	"host=,b hostaddr=127.0.0.1,":   ":5432=127.0.0.1 b:5432",
	"hostaddr=127.0.0.1,::1 port=7": ":7=127.0.0.1 :7=::1",
	"host=/tmp,b port=1,2":          "/tmp:1 b:2",
	"host=[::1],b":                  "[::1]:5432 b:5432",

	// With spaces, quotes and backslashes where libpq allows them.
	" host = a,b\tport\n=\n1,2 ": "a:1 b:2",
	`host='a,b' port='1,\2'`:     "a:1 b:2",
	`host=a host=b,c`:            "b:5432 c:5432",
	`port=1 host=`:               "localhost:1",

	"postgres://":                              "localhost:5432",
	"postgres://a:1,b:2/d":                     "a:1 b:2",
	"postgres://u:p%2Cw@a:1,b,c:3/d":           "a:1 b:5432 c:3",
	"postgres://a,b:2":                         "a:5432 b:2",
	"postgres://a,b?port=7":                    "a:7 b:7",
	"postgres://[::1]:1,[fe80::1]/d":           "::1:1 fe80::1:5432",
	"postgres://%2Ftmp:1,b:2/d":                "/tmp:1 b:2",
	"postgres://:7/d":                          "localhost:7",
	"postgresql://a,b/d?hostaddr=::1,":         "a:5432=::1 b:5432",
	"postgres:///d?host=a,b&port=1,2":          "a:1 b:2",
	"postgres://u@/d?host=/tmp&port=1":         "/tmp:1",
	"postgres://a:1/d?host=b":                  "b:1",
	"postgres://a:1,b:2/d?sslmode=verify-full": "a:1 b:2",
}

// checkServers compares the servers of a DSN, each as host:port=hostaddr.
func checkServers(t *testing.T, dsn, want string) {
	t.Helper()
	c, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		t.Errorf("%s: %v", dsn, err)
		return
	}
	var got []string
	for _, m := range append([]pq.ConfigMultihost{{Host: c.Host, Hostaddr: c.Hostaddr, Port: c.Port}}, c.Multi...) {
		text := fmt.Sprintf("%s:%d", m.Host, m.Port)
		if m.Hostaddr.IsValid() {
			text += "=" + m.Hostaddr.String()
		}
		got = append(got, text)
	}
	if got := strings.Join(got, " "); got != want {
		t.Errorf("%s: %s, want %s", dsn, got, want)
	}
}

// C5: lists of the environment stand in for those that the DSN lacks, and only
// for them.
func TestParseConfigHostListsOfTheEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "e,f,g")
	t.Setenv("PGPORT", "7,8")
	for dsn, want := range map[string]string{
		"host=a":                                "",
		"host=a,b":                              "a:7 b:8",
		"host=a port=1":                         "a:1",
		"port=1":                                "e:1 f:1 g:1",
		"port=1,2,3":                            "e:1 f:2 g:3",
		"host=a,b port=''":                      "a:5432 b:5432",
		"host='' port=''":                       "localhost:5432",
		"postgres://a:1,b:2/d":                  "a:1 b:2",
		"postgres://a,b,c/d":                    "a:5432 b:5432 c:5432", // of several hosts in a URL each has its port
		"postgres://a,b,c/d?port=1":             "a:1 b:1 c:1",
		"postgres://a,b/d?host=c":               "",
		"host=a hostaddr=127.0.0.1 port=1":      "a:1=127.0.0.1",
		"host='' hostaddr=::1,::2 port=3,4":     ":3=::1 :4=::2",
		"host=a,b hostaddr=::1,::2 user=u":      "a:7=::1 b:8=::2",
		"postgres://u:p@a/d?port=1&hostaddr=::": "a:1=::",
	} {
		if want == "" {
			if c, err := pgnotify.ParseConfig(dsn); err == nil {
				t.Errorf("%s: %v", dsn, c)
			}
			continue
		}
		checkServers(t, dsn, want)
	}
	t.Setenv("PGHOSTADDR", "::1,::2,::3")
	checkServers(t, "port=1", "e:1=::1 f:1=::2 g:1=::3")
	checkServers(t, "host=a hostaddr='' port=1", "a:1")
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
		{"connect_timeout=soon", `pgnotify: wrong value for "connect_timeout": "soon" is not a whole number of seconds`},
		{"connect_timeout=1s", `pgnotify: wrong value for "connect_timeout": "1s" is not a whole number of seconds`},
		{"cancel_timeout=1s", `pgnotify: wrong value for "cancel_timeout": "1s" is not a number from 0`},
		{"keepalives_idle=1s", `pgnotify: wrong value for "keepalives_idle": "1s" is not a number from 0`},
		{"port=5432x", `pgnotify: wrong value for "port": "5432x" is not a number from 1 to 65535`},
		{"binary_parameters=maybe", `pgnotify: wrong value for "binary_parameters": "maybe" is not yes or no`},
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

// sql.Open reports a bad DSN, as lib/pq's does not.
func TestOpenRefusesABadDSN(t *testing.T) {
	t.Parallel()
	if db, err := sql.Open("pgnotify", "sslmode=sometimes"); err == nil {
		db.Close()
		t.Error("no error")
	}
	if db, err := sql.Open("postgres", "sslmode=sometimes"); err == nil {
		defer db.Close()
		if db.PingContext(testContext(t)) == nil {
			t.Error("no error of lib/pq")
		}
	}
}

// The environment's values are read as strictly as the DSN's.
func TestParseConfigRefusesBadValuesOfTheEnvironment(t *testing.T) {
	for name, value := range map[string]string{"PGCONNECT_TIMEOUT": "1s", "PGPORT": "http", "PGSSLSNI": "maybe", "PGHOSTADDR": "localhost"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := pgnotify.ParseConfig("")
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("wrong value for $%s: %q is not ", name, value)) || strings.Contains(err.Error(), "strconv") {
				t.Error(err)
			}
		})
	}
	for name, value := range map[string]string{"PGPORT": "1,2", "PGHOSTADDR": "127.0.0.1,127.0.0.2"} {
		t.Run(name+" list", func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := pgnotify.ParseConfig("host=a"); err == nil || !strings.HasSuffix(err.Error(), " ($"+name+" of the environment)") {
				t.Error(err)
			}
		})
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
		`postgre://u:hush@x/d?sslmode=disable`,
		`mysql://u:hush@x/d?a=b&sslmode=disable`,
		`u:hush@x/d`,
		`postgres://u:hush@x:1,y:http/d`,
		`postgres://u:hush,hush/42@x:1,y/d`,
		`postgres://u:42,43/hush@x:1,y/d`,
		`postgres://u:hush,hush/hush/d`,
		`postgres://u:hush@x/d?service=none&hostaddr=hash`,
		`postgres://u:hush@x,y:1/d?service=none`,
		`service=none password=hush`,
		`postgres://u:hush@x,y/d?sslmode=sometimes`,
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

// A blank application_name means none, as in libpq: then that of the role counts.
func TestBlankApplicationName(t *testing.T) {
	role := uniqueName("named")
	db := open(t, ours(t).dsn)
	mustExec(t, db, "create role "+role+" login superuser password "+pq.QuoteLiteral(testPassword)+"; alter role "+role+" set application_name = 'of the role'")
	t.Cleanup(func() { mustExec(t, db, "drop role "+role) })
	base := ours(t).dsn + " user=" + role + " password=" + quote(testPassword)
	check := func(dsn, want string) {
		t.Helper()
		config, err := pgnotify.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		config.BeforeConnect = func(context.Context, *pgnotify.Config) error { return nil } // it gets a copy
		connector, err := pgnotify.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		if got := queryValue[string](t, openConnector(t, connector), "show application_name"); got != want {
			t.Errorf("%s: %q, want %q", dsn, got, want)
		}
	}
	const blank, fallback = " application_name=''", " fallback_application_name=f"
	check(base, defaultAppName())
	check(base+blank, "of the role")
	check(base+blank+fallback, "of the role")
	check(base+" fallback_application_name=''", "of the role")
	check(base+" application_name=mine fallback_application_name=''", "mine")
	t.Setenv("PGAPPNAME", "")
	check(base, "of the role")
	check(base+fallback, "of the role")
	check(base+" application_name=mine", "mine")
	t.Setenv("PGAPPNAME", "theirs")
	check(base+blank, "of the role")
	config, err := pgnotify.ParseConfig("postgres:///d?application_name=")
	if err != nil || config.ApplicationName != "" {
		t.Errorf("a URL: %q, %v", config.ApplicationName, err)
	}
}

// A program that was started without a name has none to give.
func TestProgramWithoutName(t *testing.T) {
	args := os.Args
	defer func() { os.Args = args }()
	for _, os.Args = range [][]string{nil, {}, {""}} {
		config, err := pgnotify.ParseConfig(dsn(t))
		if err != nil {
			t.Fatal(err)
		}
		connector, err := pgnotify.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		if got := queryValue[string](t, openConnector(t, connector), "show application_name"); got != "" {
			t.Errorf("%q: %q", os.Args, got)
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

// libpqConfig is lib/pq's NewConfig, where a panic is an error.
func libpqConfig(dsn string) (_ pq.Config, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("lib/pq panics: %v", p)
		}
	}()
	return pq.NewConfig(dsn)
}

// FuzzParseConfig checks that pairs are read as lib/pq reads them, and that
// nothing panics.
func FuzzParseConfig(f *testing.F) {
	for dsn := range hostLists {
		f.Add(dsn)
	}
	for _, dsn := range []string{
		`user=u password='it\'s' dbname = d`, `password=a\ b\\ user='u`, `a=b=c user=u'v w=`, "user=ü\u2003dbname=d", `user==u`,
		`postgres://u:p%20w@a:1,b:2/d?application_name=x&port=3`, `postgres://[::1`, `postgres://a:1:2,[b]:3]`, `postgres://%zz,b`,
		`host=,, hostaddr=0.0.0.0,`, // lib/pq v1.12.3 panics
	} {
		f.Add(dsn)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		if strings.Contains(dsn, "service") {
			return // it would read files
		}
		got, err := pgnotify.ParseConfig(dsn)
		want, wantErr := libpqConfig(dsn)
		if err != nil || wantErr != nil || strings.HasPrefix(dsn, "postgres") {
			return
		}
		if got.User != want.User || got.Password != want.Password || got.Database != want.Database || got.Passfile != want.Passfile {
			t.Errorf("%q: %+v, lib/pq has %+v", dsn, got.Config, want)
		}
		for name, value := range got.Runtime {
			if want.Runtime[name] != value {
				t.Errorf("%q: %s is %q, lib/pq has %q", dsn, name, value, want.Runtime[name])
			}
		}
	})
}
