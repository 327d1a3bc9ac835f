package transport_test

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestEndpoints(t *testing.T) {
	t.Parallel()
	cfg := pq.Config{Host: "a.test", Port: 5433, Multi: []pq.ConfigMultihost{
		{Host: ""},
		{Host: "", Hostaddr: loopback, Port: 1},
		{Host: "/run/postgresql", Port: 5432},
		{Host: "[::1]", Port: 5432},
	}}
	want := []transport.Endpoint{
		{Host: "a.test", Port: 5433},
		{Host: "localhost", Port: 5432},
		{Hostaddr: loopback, Port: 1},
		{Host: "/run/postgresql", Port: 5432},
		{Host: "::1", Port: 5432},
	}
	if got := transport.Endpoints(&cfg); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestEndpointString(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		e    transport.Endpoint
		want string
		unix bool
	}{
		{transport.Endpoint{Host: "db.example", Port: 5432}, "db.example:5432", false},
		{transport.Endpoint{Host: "::1", Port: 5432}, "[::1]:5432", false},
		{transport.Endpoint{Host: "fe80::1%eth0", Port: 5432}, "[fe80::1%eth0]:5432", false},
		{transport.Endpoint{Hostaddr: netip.MustParseAddr("::1"), Port: 5432}, "[::1]:5432", false},
		{transport.Endpoint{Host: "db", Hostaddr: loopback, Port: 5432}, "db:5432", false},
		{transport.Endpoint{Host: "/tmp/", Port: 5433}, "/tmp/.s.PGSQL.5433", true},
		{transport.Endpoint{Host: "/tmp", Hostaddr: loopback, Port: 5433}, "/tmp:5433", false},
		{transport.Endpoint{Host: "@name", Port: 5433}, "@name/.s.PGSQL.5433", true},
	} {
		if got := tt.e.String(); got != tt.want || tt.e.Unix() != tt.unix {
			t.Errorf("%#v: got %q, unix %t", tt.e, got, tt.e.Unix())
		}
	}
}
