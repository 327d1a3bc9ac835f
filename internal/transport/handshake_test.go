package transport_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// outcomes of a connection, in the table below
const (
	isPlain   = "plain"
	isTLS     = "tls"
	isRefused = "refused"
)

// expected is what libpq's documentation promises, by sslmode, the server's
// certificate ("" is a server without TLS) and whether there is a root file.
func expected(mode pq.SSLMode, cert string, root bool) string {
	trusted := cert == "good" || cert == "wrong name"
	switch {
	case mode == pq.SSLModeDisable || mode == pq.SSLModeAllow:
		return isPlain
	case mode == pq.SSLModePrefer || mode == "":
		if cert == "" || root && !trusted {
			return isPlain
		}
		return isTLS
	case mode == pq.SSLModeRequire:
		if cert != "" && (!root || trusted) {
			return isTLS
		}
	case mode == pq.SSLModeVerifyCA && root && trusted, root && cert == "good":
		return isTLS
	}
	return isRefused
}

func TestSSLModes(t *testing.T) {
	t.Parallel()
	servers := map[string]*identity{
		"good": certs().good, "other ca": certs().other,
		"wrong name": certs().wrongName, "expired": certs().expired,
		"client usage": certs().clientUsage, "": nil,
	}
	modes := []pq.SSLMode{"", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	for name, id := range servers {
		t.Run("server "+name, func(t *testing.T) {
			t.Parallel()
			handle := hold("N")
			if id != nil {
				handle = speakTLS(serverConfig(id), nil)
			}
			e := serve(t, handle)
			for _, mode := range modes {
				for _, root := range []bool{false, true} {
					testMode(t, e, mode, name, root)
				}
			}
		})
	}
}

func testMode(t *testing.T, e transport.Endpoint, mode pq.SSLMode, server string, root bool) {
	t.Helper()
	file := absent(t)
	if root {
		file = write(t, certs().ca.certPEM())
	}
	p := mustPolicy(t, pq.Config{SSLMode: mode, SSLRootCert: file, SSLSNI: true}, nil)
	conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
	got := isRefused
	if err == nil {
		defer conn.Close()
		got = isPlain
		if conn.Encrypted {
			got = isTLS
		}
		checkConn(t, conn)
	}
	if want := expected(mode, server, root); got != want {
		t.Errorf("sslmode=%s, root file %t: %s, want %s (%v)", mode, root, got, want, err)
	}
	if server == "" && mode == pq.SSLModeRequire && !errors.Is(err, pq.ErrSSLNotSupported) {
		t.Errorf("sslmode=%s without TLS: %v", mode, err)
	}
}

// checkConn checks what every open connection must be.
func checkConn(t *testing.T, conn *transport.Conn) {
	t.Helper()
	_, secure := conn.Conn.(*tls.Conn)
	want := transport.Plain
	if conn.Encrypted {
		want = transport.Required
	}
	if secure != conn.Encrypted || conn.Route.Encryption != want || conn.Route.Fallback {
		t.Errorf("encrypted %t, a *tls.Conn %t, route %+v", conn.Encrypted, secure, conn.Route)
	}
}

func TestVerificationErrors(t *testing.T) {
	t.Parallel()
	cfg := pq.Config{SSLMode: pq.SSLModeVerifyFull, SSLRootCert: write(t, certs().ca.certPEM())}
	p := mustPolicy(t, cfg, nil)
	t.Run("authority", func(t *testing.T) {
		t.Parallel()
		err := refused(t, serve(t, speakTLS(serverConfig(certs().other), nil)), p)
		var unverified *tls.CertificateVerificationError
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unverified) || !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("name", func(t *testing.T) {
		t.Parallel()
		e := serve(t, speakTLS(serverConfig(certs().wrongName), nil))
		err := refused(t, e, p)
		var name x509.HostnameError
		if !errors.As(err, &name) || !strings.HasPrefix(err.Error(), "pgnotify: TLS with "+e.String()+": ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no name", func(t *testing.T) {
		t.Parallel()
		e := serve(t, speakTLS(serverConfig(certs().good), nil))
		e.Host = ""
		if err := refused(t, e, p); !strings.Contains(err.Error(), "needs a host name") {
			t.Errorf("got %v", err)
		}
	})
}

// TestServerNames is the table of libpq's rules for names.
func TestServerNames(t *testing.T) {
	t.Parallel()
	ca := certs().ca
	wildcard := server(ca, []string{"*.db.test"})
	dnsIP := server(ca, []string{"127.0.0.1"})
	for name, tt := range map[string]struct {
		id   *identity
		host string
		ok   bool
	}{
		"name":                      {certs().good, "localhost", true},
		"case":                      {certs().good, "LocalHost", true},
		"address":                   {certs().good, "127.0.0.1", true},
		"other address":             {certs().good, "127.0.0.3", false},
		"wildcard":                  {wildcard, "a.db.test", true},
		"wildcard, two labels":      {wildcard, "a.b.db.test", false},
		"wildcard, no label":        {wildcard, "db.test", false},
		"address as a name":         {dnsIP, "127.0.0.1", true},
		"common name":               {serverNamed(ca, "localhost"), "localhost", true},
		"common name, case":         {serverNamed(ca, "LOCALHOST"), "localhost", true},
		"common name, wildcard":     {serverNamed(ca, "*.db.test"), "a.db.test", true},
		"common name, wrong":        {serverNamed(ca, "localhost.test"), "localhost", false},
		"common name, address":      {serverNamed(ca, "127.0.0.1"), "127.0.0.1", true},
		"common name beside names":  {server(ca, []string{"x.test"}), "server", false},
		"common name beside an IP":  {server(ca, nil, "127.0.0.1"), "server", true},
		"common name, no wildcards": {serverNamed(ca, "*.0.0.1"), "127.0.0.1", false},
		"socket folder":             {certs().good, "/tmp", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, speakTLS(serverConfig(tt.id), nil))
			e.Host = tt.host
			p := mustPolicy(t, pq.Config{SSLMode: "verify-full", SSLRootCert: write(t, ca.certPEM())}, nil)
			conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
			if err == nil {
				defer conn.Close()
			}
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCommonNameUnderConstraints(t *testing.T) {
	t.Parallel()
	e := serve(t, speakTLS(serverConfig(certs().underConstrained, certs().constrained), nil))
	root := write(t, certs().ca.certPEM())
	open(t, e, mustPolicy(t, pq.Config{SSLMode: "verify-ca", SSLRootCert: root}, nil))
	refused(t, e, mustPolicy(t, pq.Config{SSLMode: "verify-full", SSLRootCert: root}, nil))
}

func TestChains(t *testing.T) {
	t.Parallel()
	pki := certs()
	alone := serverConfig(pki.underIntermediate)
	full := serverConfig(pki.underIntermediate, pki.intermediate)
	self := issue(leaf("localhost", x509.ExtKeyUsageServerAuth), nil)
	for name, tt := range map[string]struct {
		server *tls.Config
		roots  []byte
		ok     bool
	}{
		"sent by the server":     {full, pki.ca.certPEM(), true},
		"not sent":               {alone, pki.ca.certPEM(), false},
		"in the root file":       {alone, pki.ca.certPEM(pki.intermediate), true},
		"intermediate, no root":  {full, pki.intermediate.certPEM(), false},
		"root among others":      {full, pki.otherCA.certPEM(pki.ca), true},
		"self-signed, trusted":   {serverConfig(self), self.certPEM(), true},
		"self-signed, untrusted": {serverConfig(self), pki.ca.certPEM(), false},
		"no certificate in file": {full, []byte("nothing"), false},
		"empty file":             {full, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, speakTLS(tt.server, nil))
			for _, inline := range []bool{false, true} {
				cfg := pq.Config{SSLMode: "verify-full", SSLRootCert: string(tt.roots), SSLInline: inline}
				if !inline {
					cfg.SSLRootCert = write(t, tt.roots)
				}
				conn, err := connect(bounded(t), &transport.Dialer{}, e, mustPolicy(t, cfg, nil))
				if err == nil {
					conn.Close()
				}
				if (err == nil) != tt.ok {
					t.Errorf("inline %t: got %v", inline, err)
				}
			}
		})
	}
}

func TestRootFileMissing(t *testing.T) {
	t.Parallel()
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	for _, mode := range []pq.SSLMode{"verify-ca", "verify-full"} {
		for _, file := range []string{"", absent(t)} {
			err := refused(t, e, mustPolicy(t, pq.Config{SSLMode: mode, SSLRootCert: file}, nil))
			name := file
			if name == "" {
				name = "root.crt"
			}
			if text := err.Error(); !strings.Contains(text, name) || !strings.Contains(text, "sslrootcert=system") {
				t.Errorf("sslmode=%s: got %v", mode, err)
			}
		}
	}
}

func TestSystemRoots(t *testing.T) {
	t.Parallel()
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	err := refused(t, e, mustPolicy(t, pq.Config{SSLRootCert: "system"}, nil))
	var unverified *tls.CertificateVerificationError
	if !errors.As(err, &unverified) {
		t.Errorf("got %v", err)
	}
}

// TestDefaultRootFile cannot be parallel: it sets the environment.
func TestDefaultRootFile(t *testing.T) {
	home := privateHome(t, certs().otherCA, nil)
	t.Setenv("HOME", home)
	t.Setenv("APPDATA", home)
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	refused(t, e, mustPolicy(t, pq.Config{SSLMode: "require"}, nil))
	open(t, e, mustPolicy(t, pq.Config{SSLMode: "require", SSLInline: true}, nil))
	if conn := open(t, e, mustPolicy(t, pq.Config{}, nil)); conn.Encrypted {
		t.Error("sslmode=prefer spoke TLS with an untrusted server")
	}
}

// TestDefaultRevocationList cannot be parallel: it sets the environment. What libpq would
// take into account is not ignored.
func TestDefaultRevocationList(t *testing.T) {
	home := privateHome(t, certs().ca, nil)
	t.Setenv("HOME", home)
	t.Setenv("APPDATA", home)
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	verifying := []pq.Config{{SSLMode: "require"}, {SSLMode: "verify-ca"}, {SSLMode: "verify-full"}}
	for _, cfg := range verifying {
		open(t, e, mustPolicy(t, cfg, nil))
	}
	for _, folder := range []string{".postgresql", "postgresql"} { // the latter for Windows
		if err := os.WriteFile(filepath.Join(home, folder, "root.crl"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, cfg := range verifying {
		if err := refused(t, e, mustPolicy(t, cfg, nil)); !strings.Contains(err.Error(), "root.crl") {
			t.Errorf("%s: %v", cfg.SSLMode, err)
		}
	}
	if conn := open(t, e, mustPolicy(t, pq.Config{}, nil)); !conn.Encrypted {
		t.Error("sslmode=prefer does without TLS")
	}
}

func TestDirect(t *testing.T) {
	t.Parallel()
	cfg := pq.Config{SSLMode: "verify-full", SSLRootCert: write(t, certs().ca.certPEM()), SSLNegotiation: "direct"}
	t.Run("with ALPN", func(t *testing.T) {
		t.Parallel()
		seen := make(chan tls.ConnectionState, 1)
		conn := open(t, serve(t, speakDirect(serverConfig(certs().good), seen)), mustPolicy(t, cfg, nil))
		echo(t, conn)
		checkConn(t, conn)
		if state := <-seen; state.NegotiatedProtocol != "postgresql" {
			t.Errorf("protocol is %q", state.NegotiatedProtocol)
		}
	})
	without := serverConfig(certs().good)
	without.NextProtos = nil
	t.Run("without ALPN", func(t *testing.T) {
		t.Parallel()
		err := refused(t, serve(t, speakDirect(without, nil)), mustPolicy(t, cfg, nil))
		if !strings.Contains(err.Error(), "ALPN") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("without ALPN, negotiated", func(t *testing.T) {
		t.Parallel()
		cfg := cfg
		cfg.SSLNegotiation = "postgres"
		echo(t, open(t, serve(t, speakTLS(without, nil)), mustPolicy(t, cfg, nil)))
	})
	t.Run("without TLS", func(t *testing.T) {
		t.Parallel()
		e := serve(t, func(conn net.Conn) { conn.Read(make([]byte, 5)) })
		err := refused(t, e, mustPolicy(t, cfg, nil))
		var failed *transport.Error
		if !errors.As(err, &failed) || failed.Phase != transport.PhaseHandshake {
			t.Errorf("got %v", err)
		}
	})
}

func TestServerNameIndication(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		host, want string
		sni        bool
	}{
		"on":      {"localhost", "localhost", true},
		"off":     {"localhost", "", false},
		"address": {"127.0.0.1", "", true},
		"folder":  {"/tmp", "", true},
		"none":    {"", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan tls.ConnectionState, 1)
			e := serve(t, speakTLS(serverConfig(certs().good), seen))
			e.Host = tt.host
			open(t, e, mustPolicy(t, pq.Config{SSLMode: "require", SSLSNI: tt.sni}, nil))
			if state := <-seen; state.ServerName != tt.want {
				t.Errorf("got %q", state.ServerName)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	old := serverConfig(certs().good)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for name, tt := range map[string]struct {
		server   *tls.Config
		min, max pq.SSLProtocolVersion
		want     uint16 // 0: refused
	}{
		"newest":         {serverConfig(certs().good), "", "", tls.VersionTLS13},
		"maximum":        {serverConfig(certs().good), "", "TLSv1.2", tls.VersionTLS12},
		"old server":     {old, "", "", 0},
		"old, asked for": {old, "TLSv1.0", "", tls.VersionTLS11},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, speakTLS(tt.server, nil))
			p := mustPolicy(t, pq.Config{SSLMode: "require", SSLMinProtocolVersion: tt.min, SSLMaxProtocolVersion: tt.max}, nil)
			if tt.want == 0 {
				refused(t, e, p)
				return
			}
			if got := open(t, e, p).Conn.(*tls.Conn).ConnectionState().Version; got != tt.want {
				t.Errorf("got %s", tls.VersionName(got))
			}
		})
	}
}

func TestCustomConfig(t *testing.T) {
	t.Parallel()
	trusting := &tls.Config{RootCAs: certs().ca.pool()}
	for name, tt := range map[string]struct {
		custom *tls.Config
		server *identity
		host   string
		ok     bool
		proto  string
	}{
		"trusted":             {trusting, certs().good, "localhost", true, "postgresql"},
		"other authority":     {trusting, certs().other, "localhost", false, ""},
		"wrong name":          {trusting, certs().wrongName, "localhost", false, ""},
		"by address":          {trusting, certs().good, "", true, "postgresql"},
		"by the wrong one":    {trusting, certs().wrongName, "", false, ""},
		"own name":            {&tls.Config{RootCAs: certs().ca.pool(), ServerName: "wrong.test"}, certs().wrongName, "localhost", true, "postgresql"},
		"own protocols":       {&tls.Config{RootCAs: certs().ca.pool(), NextProtos: []string{"mine", "postgresql"}}, certs().good, "localhost", true, "postgresql"},
		"no verification":     {&tls.Config{InsecureSkipVerify: true}, certs().other, "localhost", true, "postgresql"},
		"system's, by itself": {&tls.Config{}, certs().good, "localhost", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, speakTLS(serverConfig(tt.server), nil))
			e.Host = tt.host
			// The files of cfg do not count.
			p := mustPolicy(t, pq.Config{SSLRootCert: absent(t), SSLKey: absent(t)}, tt.custom)
			if !tt.ok {
				refused(t, e, p)
				return
			}
			if got := open(t, e, p).Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != tt.proto {
				t.Errorf("protocol is %q", got)
			}
		})
	}
	if trusting.ServerName != "" || trusting.NextProtos != nil {
		t.Error("the configuration was changed")
	}
}

func TestCustomResumes(t *testing.T) {
	t.Parallel()
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	p := mustPolicy(t, pq.Config{}, &tls.Config{RootCAs: certs().ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)})
	echo(t, open(t, e, p)) // reading takes the ticket in
	if !open(t, e, p).Conn.(*tls.Conn).ConnectionState().DidResume {
		t.Error("the session was not resumed")
	}
}

func TestAllAddressesAreTried(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, speakTLS(serverConfig(certs().good), nil))
	e := transport.Endpoint{Host: "many.test", Port: l.Addr().(*net.TCPAddr).AddrPort().Port()}
	routes, err := (&transport.Dialer{}).Routes(bounded(t), e, mustPolicy(t, pq.Config{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(routes) // the plain ones come first, and all may fail but one
	var reached []string
	for _, r := range routes {
		if conn, err := r.Connect(bounded(t)); err == nil {
			reached = append(reached, conn.RemoteAddr().String()+" "+r.Encryption.String())
			conn.Close()
		}
	}
	if want := []string{l.Addr().String() + " plain", l.Addr().String() + " opportunistic"}; !slices.Equal(reached, want) {
		t.Errorf("reached %q", reached)
	}
}
