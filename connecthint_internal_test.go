package pgnotify

import (
	"reflect"
	"slices"
	"testing"

	"github.com/lib/pq"
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

// The lists are complete, and what pgnotify supports does not count as unsupported.
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
	for name, p := range libpqParameters {
		_, ours := parameters[name]
		supported := ours || slices.Contains(known, name) || name == "replication" || name == "servicefile"
		if supported != (p.refused == "") {
			t.Errorf("%s: supported is %v, and yet it is refused: %q", name, supported, p.refused)
		}
	}
}
