//go:build unix

package transport_test

import (
	"errors"
	"os"
	"testing"

	"crypto/tls"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

func TestKeyPermissions(t *testing.T) {
	t.Parallel()
	e, _ := asking(t, certs().ca, tls.RequestClientCert)
	for mode, byRoot := range map[os.FileMode]bool{ // and whether it is fine if the file is root's
		0o600: true, 0o400: true, 0o700: true, 0o640: true, 0o440: true,
		0o660: false, 0o650: false, 0o604: false, 0o644: false, 0o601: false,
	} {
		key := write(t, certs().client.keyPEM())
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		testKey(t, e, key, mode, mode&0o077 == 0 || byRoot && os.Getuid() == 0)
		if os.Getuid() != 0 {
			continue
		}
		if err := os.Chown(key, 1, 1); err != nil {
			t.Fatal(err)
		}
		testKey(t, e, key, mode, mode&0o077 == 0)
	}
}

func testKey(t *testing.T, e transport.Endpoint, key string, mode os.FileMode, ok bool) {
	t.Helper()
	p := mustPolicy(t, pq.Config{SSLMode: "require", SSLCert: write(t, certs().client.certPEM()), SSLKey: key}, nil)
	conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
	if err == nil {
		conn.Close()
	}
	if (err == nil) != ok || !ok && !errors.Is(err, pq.ErrSSLKeyHasWorldPermissions) {
		t.Errorf("%v: %v", mode, err)
	}
}
