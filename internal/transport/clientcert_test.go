package transport_test

import (
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// privateHome makes a home folder with a root certificate and a client's
// certificate in the places of the defaults, where they are not nil.
func privateHome(t *testing.T, root, client *identity) string {
	t.Helper()
	home := t.TempDir()
	for _, folder := range []string{".postgresql", "postgresql"} { // the latter for Windows
		folder = filepath.Join(home, folder)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		if root != nil {
			files["root.crt"] = root.certPEM()
		}
		if client != nil {
			files["postgresql.crt"], files["postgresql.key"] = client.certPEM(), client.keyPEM()
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return home
}

// asking is a server that wants a certificate issued by ca.
func asking(t *testing.T, ca *identity, auth tls.ClientAuthType) (transport.Endpoint, <-chan tls.ConnectionState) {
	seen := make(chan tls.ConnectionState, 1)
	cfg := serverConfig(certs().good)
	cfg.ClientAuth, cfg.ClientCAs = auth, ca.pool()
	return serve(t, speakTLS(cfg, seen)), seen
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	pki := certs()
	for name, tt := range map[string]struct {
		cert, key []byte
		root      []byte
		auth      tls.ClientAuthType
		sent      int // certificates that the server sees
	}{
		"none":                       {nil, nil, nil, tls.RequestClientCert, 0},
		"its own":                    {pki.client.certPEM(), pki.client.keyPEM(), nil, tls.RequireAndVerifyClientCert, 1},
		"not in the list":            {pki.clientOther.certPEM(), pki.clientOther.keyPEM(), nil, tls.RequireAnyClientCert, 1},
		"with its intermediate":      {pki.clientUnder.certPEM(pki.intermediate), pki.clientUnder.keyPEM(), nil, tls.RequireAndVerifyClientCert, 2},
		"intermediate from the root": {pki.clientUnder.certPEM(), pki.clientUnder.keyPEM(), pki.ca.certPEM(pki.intermediate), tls.RequireAndVerifyClientCert, 2},
	} {
		for _, inline := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := pq.Config{SSLMode: "require", SSLInline: inline}
				if inline {
					cfg.SSLCert, cfg.SSLKey, cfg.SSLRootCert = string(tt.cert), string(tt.key), string(tt.root)
				} else {
					cfg.SSLCert, cfg.SSLKey = optional(t, tt.cert), optional(t, tt.key)
					cfg.SSLRootCert = optional(t, tt.root)
				}
				e, seen := asking(t, pki.ca, tt.auth)
				echo(t, open(t, e, mustPolicy(t, cfg, nil)))
				if state := <-seen; len(state.PeerCertificates) != tt.sent {
					t.Errorf("the server saw %d certificates", len(state.PeerCertificates))
				}
			})
		}
	}
}

// optional returns the path of a file that exists unless text is nil.
func optional(t *testing.T, text []byte) string {
	if text == nil {
		return absent(t)
	}
	return write(t, text)
}

func TestClientCertificateErrors(t *testing.T) {
	t.Parallel()
	pki := certs()
	e, _ := asking(t, pki.ca, tls.RequestClientCert)
	cert, key := string(pki.client.certPEM()), string(pki.client.keyPEM())
	pkcs8 := string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	legacy := string(pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: []byte("x"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"},
	}))
	for name, tt := range map[string]struct {
		cfg  pq.Config
		want string
	}{
		"no key":             {pq.Config{SSLCert: write(t, pki.client.certPEM()), SSLKey: absent(t)}, "private key file"},
		"no default key":     {pq.Config{SSLCert: write(t, pki.client.certPEM())}, "postgresql.key"},
		"no key inline":      {pq.Config{SSLInline: true, SSLCert: cert}, "sslkey is empty"},
		"key is a folder":    {pq.Config{SSLCert: write(t, pki.client.certPEM()), SSLKey: t.TempDir()}, "not a regular file"},
		"certificate folder": {pq.Config{SSLCert: t.TempDir(), SSLKey: absent(t)}, "sslcert"},
		"other key":          {pq.Config{SSLInline: true, SSLCert: cert, SSLKey: string(pki.good.keyPEM())}, "does not match"},
		"exchanged":          {pq.Config{SSLInline: true, SSLCert: key, SSLKey: cert}, "sslcert and sslkey"},
		"encrypted":          {pq.Config{SSLInline: true, SSLCert: cert, SSLKey: pkcs8}, "encrypted"},
		"encrypted, old":     {pq.Config{SSLInline: true, SSLCert: cert, SSLKey: legacy}, "encrypted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.SSLMode = pq.SSLModeRequire
			text := refused(t, e, mustPolicy(t, tt.cfg, nil)).Error()
			if !strings.Contains(text, tt.want) {
				t.Errorf("got %s", text)
			}
			if block, _ := pem.Decode([]byte(key)); strings.Contains(text, "BEGIN") || strings.Contains(text, string(block.Bytes)) {
				t.Errorf("the key is in %s", text)
			}
		})
	}
}

func TestFilesAreReadAnew(t *testing.T) {
	t.Parallel()
	root := write(t, certs().otherCA.certPEM())
	e := serve(t, speakTLS(serverConfig(certs().good), nil))
	p := mustPolicy(t, pq.Config{SSLMode: "verify-full", SSLRootCert: root}, nil)
	refused(t, e, p)
	if err := os.WriteFile(root, certs().ca.certPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, e, p)
}

// TestDefaultClientFiles cannot be parallel: it sets the environment.
func TestDefaultClientFiles(t *testing.T) {
	home := privateHome(t, nil, certs().client)
	t.Setenv("HOME", home)
	t.Setenv("APPDATA", home)
	e, seen := asking(t, certs().ca, tls.RequireAndVerifyClientCert)
	echo(t, open(t, e, mustPolicy(t, pq.Config{SSLMode: "require"}, nil)))
	if state := <-seen; !state.PeerCertificates[0].Equal(certs().client.cert) {
		t.Error("another certificate was sent")
	}
}
