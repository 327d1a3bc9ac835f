package transport

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// clientCertificate returns the function for [tls.Config.GetClientCertificate],
// or nil if there is no certificate. The function is used, and not the list of
// certificates, because package tls sends nothing from the list unless the
// server has named its issuer, and servers name only their roots.
func (f files) clientCertificate(t *trust) (
	func(*tls.CertificateRequestInfo) (*tls.Certificate, error), error,
) {
	certText, keyText, found, err := f.clientText()
	if err != nil || !found {
		return nil, err
	}
	if isEncrypted(keyText) {
		return nil, errors.New("sslkey is encrypted, and passphrases are not supported")
	}
	cert, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, fmt.Errorf("sslcert and sslkey: %w", err)
	}
	if own := certificates(certText); len(own) == 1 {
		cert.Certificate = append(cert.Certificate, t.issuers(own[0])...)
	}
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }, nil
}

// clientText returns the PEM texts of the client's certificate and key, or
// found false if it has none.
func (f files) clientText() (cert, key []byte, found bool, err error) {
	if f.inline {
		if f.cert != "" && f.key == "" {
			return nil, nil, false, errors.New("sslcert is given, but sslkey is empty")
		}
		return []byte(f.cert), []byte(f.key), f.cert != "", nil
	}
	certPath := f.path(f.cert, "postgresql.crt")
	if certPath == "" || isMissing(certPath) {
		return nil, nil, false, nil
	}
	if cert, err = readFile("sslcert", certPath); err != nil {
		return nil, nil, false, err
	}
	key, err = readKey(f.path(f.key, "postgresql.key"), certPath)
	return cert, key, err == nil, err
}

// readKey reads a private key if nobody but its owner could have.
func readKey(path, certPath string) ([]byte, error) {
	if path == "" || isMissing(path) {
		return nil, fmt.Errorf("sslcert %q is there, but its private key file %q is not", certPath, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("sslkey: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("sslkey %q is not a regular file", path)
	}
	if err := checkKeyPermissions(info); err != nil {
		return nil, fmt.Errorf("sslkey %q: %w", path, err)
	}
	return readFile("sslkey", path)
}

// isEncrypted reports whether a private key in text needs a passphrase, in the
// format of PKCS #8 or in OpenSSL's older one.
func isEncrypted(text []byte) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
	return false
}
