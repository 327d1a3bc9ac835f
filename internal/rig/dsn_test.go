package rig_test

import (
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/rig"
)

func TestGivenDSN(t *testing.T) {
	for _, dsn := range []string{"", "host=db port=6432 user=u"} {
		t.Setenv("PGNOTIFY_TEST_DSN", dsn)
		if got, err := rig.GivenDSN(); got != dsn || err != nil {
			t.Errorf("%q: got %q, %v", dsn, got, err)
		}
	}
	for _, scheme := range []string{"postgres", "postgresql"} {
		t.Setenv("PGNOTIFY_TEST_DSN", scheme+`://u:it%27s%5C@db:6432/d?sslmode=disable&application_name=a%20b`)
		dsn, err := rig.GivenDSN()
		if err != nil {
			t.Fatal(err)
		}
		c, err := pq.NewConfig(dsn + " application_name=mine dbname='another one'")
		if err != nil {
			t.Fatal(err)
		}
		if c.Host != "db" || c.Port != 6432 || c.User != "u" || c.Password != `it's\` || c.Database != "another one" ||
			c.SSLMode != pq.SSLModeDisable || c.ApplicationName != "mine" {
			t.Errorf("%s: %+v", scheme, c)
		}
	}
	t.Setenv("PGNOTIFY_TEST_DSN", "postgres://u:geheim%zz@db")
	if got, err := rig.GivenDSN(); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a bad URL: %q, %v", got, err)
	}
}
