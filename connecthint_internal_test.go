package pgnotify

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestNearestParameter(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"sslmod":               "sslmode",
		"sslMode":              "sslmode",
		"ssl_mode":             "sslmode",
		"conect_timeout":       "connect_timeout",
		"connection_timeout":   "",
		"usr":                  "user",
		"prot":                 "port",
		"pasword":              "password",
		"pass":                 "",
		"tt":                   "",
		"cancel_timout":        "cancel_timeout",
		"statment_cache_size":  "statement_cache_size",
		"aplication_nam":       "application_name",
		"work_mem":             "",
		"search_path":          "",
		"nonsense":             "",
		"":                     "",
		"target_session_attrs": "target_session_attrs",
	} {
		if got := nearestParameter(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// The lists are complete, and no parameter that is known counts as unsupported.
func TestParameterLists(t *testing.T) {
	t.Parallel()
	known := []string{"database"} // lib/pq takes it for dbname
	for i := range reflect.TypeFor[pq.Config]().NumField() {
		if tag := reflect.TypeFor[pq.Config]().Field(i).Tag.Get("postgres"); tag != "" && tag != "-" {
			known = append(known, tag)
		}
	}
	slices.Sort(known)
	if !slices.Equal(known, libParameters) {
		t.Errorf("lib/pq knows\n%q, and we list\n%q", known, libParameters)
	}
	for _, name := range libpqParameters {
		if _, ours := parameters[name]; ours || slices.Contains(known, name) {
			t.Errorf("%s is supported", name)
		}
		c, err := ParseConfig(name + "=x")
		if err != nil || c.Runtime[name] != "x" {
			t.Errorf("%s: %v: it is not passed on to the server", name, err)
		}
	}
}

// What lib/pq would find in a password file is found.
func TestHasPassword(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pass")
	const lines = "# *:*:*:*:comment\n\nh:5432:d:u:p\nlocalhost:*:*:s:p\n/run:*:*:r:p\n*:*:*:e:\n*:*:*:e:late\n*:*:a\\:b:*:p\nbad:*:*:*\n"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, database, user string
		port                 uint16
		want                 bool
	}{
		{"h", "d", "u", 5432, true},
		{"h", "d", "u", 5433, false},
		{"h", "x", "u", 5432, false},
		{"g", "d", "u", 5432, false},
		{"localhost", "d", "s", 1, true},
		{"/run", "d", "s", 1, true},
		{"", "d", "s", 1, true},
		{"/run", "d", "r", 1, true},
		{"h", "d", "e", 1, false},
		{"h", "a:b", "x", 1, true},
		{"bad", "d", "x", 1, false},
	} {
		config := &pq.Config{Passfile: file, Database: c.database, User: c.user}
		host := transport.Endpoint{Host: c.host, Port: c.port, Hostaddr: netip.Addr{}}
		if got := hasPassword(config, host); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		config.Password = "p"
		if !hasPassword(config, host) {
			t.Errorf("%+v, with a password: false", c)
		}
	}
	config := &pq.Config{Passfile: file, User: "u", Database: "d"}
	host := transport.Endpoint{Host: "h", Port: 5432}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if hasPassword(config, host) && runtime.GOOS != "windows" {
		t.Error("a file that lib/pq ignores has a password")
	}
	config.Passfile = file + ".none"
	if hasPassword(config, host) {
		t.Error("a file that does not exist has a password")
	}
}
