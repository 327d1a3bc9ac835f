package transport

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/lib/pq"
)

// files holds the settings that name certificates. They are paths or, if inline, the
// PEM text itself; only paths have a default. It is immutable.
type files struct {
	inline bool // sslinline
	root   string
	cert   string
	key    string
}

func newFiles(cfg *pq.Config) files {
	return files{
		inline: cfg.SSLInline,
		root:   cfg.SSLRootCert,
		cert:   cfg.SSLCert,
		key:    cfg.SSLKey,
	}
}

// check finds errors that do not depend on the content of the files. It refuses PEM
// text in place of a path, before an error about the path could quote it.
func (f files) check(mode pq.SSLMode) error {
	if f.root == systemRoots && mode != pq.SSLModeVerifyFull {
		return fmt.Errorf(`pgnotify: weak sslmode %q may not be used with sslrootcert=system: use "verify-full"`, mode)
	}
	if f.inline {
		return nil
	}
	for _, s := range []struct{ name, value string }{
		{"sslrootcert", f.root}, {"sslcert", f.cert}, {"sslkey", f.key},
	} {
		if strings.Contains(s.value, "-----BEGIN") {
			return fmt.Errorf("pgnotify: %s holds PEM text, which needs sslinline=true", s.name)
		}
	}
	return nil
}

// path returns value, or the default file of that name if it is empty. Inline
// text has no path.
func (f files) path(value, name string) string {
	if value == "" {
		return defaultFile(name)
	}
	return value
}

// trust returns how to judge the certificate of the server called name.
func (f files) trust(mode pq.SSLMode, name string) (*trust, error) {
	t := &trust{}
	if mode == pq.SSLModeVerifyFull {
		if name == "" {
			return nil, errors.New("sslmode=verify-full needs a host name: set host besides hostaddr")
		}
		t.name = name
	}
	if f.root == systemRoots {
		t.chain = true
		return t, nil
	}
	text, found, err := f.rootText(mode)
	if err != nil {
		return nil, err
	}
	if !found {
		return t, nil
	}
	if !t.addAuthorities(text) {
		return nil, errors.New("sslrootcert holds no certificate that can be read")
	}
	return t, f.checkRevocation(mode)
}

// checkRevocation refuses to verify certificates without the list of revoked ones that
// libpq would read by default. Modes that may end without TLS are not made to.
func (f files) checkRevocation(mode pq.SSLMode) error {
	path := defaultFile("root.crl")
	if f.inline || isWeak(mode) || path == "" || isMissing(path) {
		return nil
	}
	return fmt.Errorf("the list of revoked certificates %q cannot be taken into account: "+
		"remove it, or verify certificates with Config.TLSConfig", path)
}

// rootText returns the PEM text of the root certificates, or found false if there are
// none and mode does not need them. A file that cannot be found, for whatever reason,
// counts as none; one that cannot be read is an error.
func (f files) rootText(mode pq.SSLMode) (text []byte, found bool, err error) {
	if f.inline {
		if f.root == "" && isVerifying(mode) {
			return nil, false, fmt.Errorf("sslmode=%s needs root certificates, but sslrootcert is empty", mode)
		}
		return []byte(f.root), f.root != "", nil
	}
	path := f.path(f.root, "root.crt")
	if path != "" {
		if _, err := os.Stat(path); err == nil {
			text, err = readFile("sslrootcert", path)
			return text, err == nil, err
		}
	}
	if isVerifying(mode) {
		return nil, false, noRootError(mode, path)
	}
	return nil, false, nil
}

// noRootError says which file was looked for, and what to do.
func noRootError(mode pq.SSLMode, path string) error {
	what := fmt.Sprintf("the root certificate file %q does not exist", path)
	if path == "" {
		what = "there is no home folder to look for the root certificate file in"
	}
	return fmt.Errorf("sslmode=%s: %s: provide it with sslrootcert, or use the system's "+
		"root certificates with sslrootcert=system and sslmode=verify-full", mode, what)
}

func readFile(setting, path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return text, nil
}

// isMissing reports whether there is no file at path. Any other trouble with it
// is left for whoever opens it to report.
func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// certificates returns the certificates in PEM text that can be parsed.
func certificates(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, cert)
		}
	}
	return list
}

// isSelfIssued reports whether cert ends a chain.
func isSelfIssued(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject)
}
