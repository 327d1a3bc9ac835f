package transport_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestNewPolicyErrors(t *testing.T) {
	t.Parallel()
	const direct = pq.SSLNegotiationDirect
	key := string(certs().client.keyPEM())
	for name, tt := range map[string]struct {
		cfg    pq.Config
		custom *tls.Config
		want   []string // parts of the text
	}{
		"unknown mode":         {pq.Config{SSLMode: "verify"}, nil, []string{`"verify"`, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}},
		"registered":           {pq.Config{SSLMode: "pqgo-mine"}, nil, []string{"pqgo-mine", "Config.TLSConfig"}},
		"disable and custom":   {pq.Config{SSLMode: "disable"}, &tls.Config{}, []string{"Config.TLSConfig", "sslmode=disable"}},
		"disable and direct":   {pq.Config{SSLMode: "disable", SSLNegotiation: direct}, nil, []string{`"disable"`, "sslnegotiation=direct"}},
		"allow and direct":     {pq.Config{SSLMode: "allow", SSLNegotiation: direct}, nil, []string{`"allow"`, "sslnegotiation=direct"}},
		"prefer and direct":    {pq.Config{SSLMode: "prefer", SSLNegotiation: direct}, nil, []string{`"prefer"`, "sslnegotiation=direct"}},
		"unix, allow, direct":  {pq.Config{Host: "/tmp", SSLMode: "allow", SSLNegotiation: direct}, nil, []string{`"allow"`}},
		"unknown negotiation":  {pq.Config{SSLNegotiation: "indirect"}, nil, []string{`"indirect"`, "direct", "postgres"}},
		"system and require":   {pq.Config{SSLMode: "require", SSLRootCert: "system"}, nil, []string{"sslrootcert=system", "verify-full"}},
		"system and verify-ca": {pq.Config{SSLMode: "verify-ca", SSLRootCert: "system"}, nil, []string{"sslrootcert=system", "verify-full"}},
		"versions":             {pq.Config{SSLMinProtocolVersion: "TLSv1.3", SSLMaxProtocolVersion: "TLSv1.2"}, nil, []string{"TLS 1.3", "TLS 1.2", "ssl_max_protocol_version"}},
		"default version":      {pq.Config{SSLMaxProtocolVersion: "TLSv1.1"}, nil, []string{"TLS 1.2", "TLS 1.1"}},
		"unknown minimum":      {pq.Config{SSLMinProtocolVersion: "SSLv3"}, nil, []string{"ssl_min_protocol_version", "SSLv3"}},
		"unknown maximum":      {pq.Config{SSLMaxProtocolVersion: "SSLv3"}, nil, []string{"ssl_max_protocol_version", "SSLv3"}},
		"text for a path":      {pq.Config{SSLKey: key}, nil, []string{"sslkey", "sslinline=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := transport.NewPolicy(&tt.cfg, tt.custom)
			if err == nil || p != nil {
				t.Fatalf("got %v, %v", p, err)
			}
			text := err.Error()
			for _, want := range append(tt.want, "pgnotify: ") {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in %q", want, text)
				}
			}
			if strings.Contains(text, "PRIVATE") {
				t.Errorf("the key is in %q", text)
			}
		})
	}
}

func TestNewPolicyDefaults(t *testing.T) {
	t.Parallel()
	const direct = pq.SSLNegotiationDirect
	custom := &tls.Config{}
	for name, tt := range map[string]struct {
		cfg    pq.Config
		custom *tls.Config
		want   transport.Encryption // of the first route
	}{
		"nothing":             {pq.Config{}, nil, transport.Opportunistic},
		"direct":              {pq.Config{SSLNegotiation: direct}, nil, transport.Required},
		"custom":              {pq.Config{}, custom, transport.Required},
		"custom and prefer":   {pq.Config{SSLMode: "prefer"}, custom, transport.Opportunistic},
		"custom and allow":    {pq.Config{SSLMode: "allow"}, custom, transport.Plain},
		"custom, unix first":  {pq.Config{Host: "/tmp", SSLMode: "disable"}, custom, transport.Required},
		"direct, unix first":  {pq.Config{Host: "/tmp", SSLMode: "disable", SSLNegotiation: direct}, nil, transport.Plain},
		"system":              {pq.Config{SSLRootCert: "system"}, nil, transport.Required},
		"custom and system":   {pq.Config{SSLRootCert: "system"}, custom, transport.Required},
		"versions in lower":   {pq.Config{SSLMinProtocolVersion: "tlsv1.0"}, nil, transport.Opportunistic},
		"old, if asked for":   {pq.Config{SSLMinProtocolVersion: "TLSv1.0", SSLMaxProtocolVersion: "TLSv1.1"}, nil, transport.Opportunistic},
		"maximum, no minimum": {pq.Config{SSLMaxProtocolVersion: "TLSv1.2"}, nil, transport.Opportunistic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := mustPolicy(t, tt.cfg, tt.custom)
			routes, err := (&transport.Dialer{}).Routes(bounded(t), transport.Endpoint{Host: "10.0.0.1", Port: 1}, p)
			if err != nil || routes[0].Encryption != tt.want {
				t.Errorf("got %v, %v", routes, err)
			}
		})
	}
}
