package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"time"
)

// throwawayTLS returns the configuration of a server whose certificate nobody
// verifies. Like PostgreSQL it resumes no sessions.
func throwawayTLS() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	}, nil
}

// secure reads a session's request for TLS and grants it.
func secure(c net.Conn, config *tls.Config) (net.Conn, error) {
	var request [8]byte
	if _, err := io.ReadFull(c, request[:]); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, "S"); err != nil {
		return nil, err
	}
	return tls.Server(c, config), nil
}
