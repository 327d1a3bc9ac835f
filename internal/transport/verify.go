package transport

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/netip"
	"slices"
)

// trust decides how one handshake judges the server's certificate. It is immutable once
// made.
type trust struct {
	chain bool   // verify the chain
	name  string // if not empty, verify it as the server's name too

	roots       *x509.CertPool      // nil: the system's
	authorities []*x509.Certificate // the intermediate ones among sslrootcert
}

// addAuthorities makes t trust the certificates in text, and reports whether there are
// any. OpenSSL accepts a chain only if it ends in a self-issued certificate, so the
// others are not anchors, but help to find the way to one.
func (t *trust) addAuthorities(text []byte) bool {
	certs := certificates(text)
	t.chain, t.roots = true, x509.NewCertPool()
	for _, cert := range certs {
		if isSelfIssued(cert) {
			t.roots.AddCert(cert)
		} else {
			t.authorities = append(t.authorities, cert)
		}
	}
	return len(certs) > 0
}

// issuers returns the chain from leaf through the intermediate authorities, to be sent
// with a client certificate that came without it. OpenSSL also completes it from
// sslrootcert.
func (t *trust) issuers(leaf *x509.Certificate) [][]byte {
	var chain [][]byte
	for cert := leaf; len(chain) < len(t.authorities); {
		i := slices.IndexFunc(t.authorities, func(a *x509.Certificate) bool {
			return cert.CheckSignatureFrom(a) == nil
		})
		if i < 0 {
			break
		}
		cert = t.authorities[i]
		chain = append(chain, cert.Raw)
	}
	return chain
}

// verify is for [tls.Config.VerifyConnection]. Its errors are of the same type
// as those of package tls's own verification.
func (t *trust) verify(state tls.ConnectionState) error {
	if !t.chain {
		return nil
	}
	certs := state.PeerCertificates
	if len(certs) == 0 {
		return errors.New("the server sent no certificate")
	}
	chains, err := t.verifyChain(certs)
	if err == nil && t.name != "" {
		err = verifyName(certs[0], t.name, chains)
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: certs, Err: err}
	}
	return nil
}

// verifyChain finds the chains from the server's certificate to a root, for use by a
// TLS server.
func (t *trust) verifyChain(certs []*x509.Certificate) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{
		Roots:         t.roots,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	for _, cert := range t.authorities {
		opts.Intermediates.AddCert(cert)
	}
	return certs[0].Verify(opts)
}

// verifyName checks the name as libpq does: against the alternative names, an IP
// address also as the text of a DNS name, and, if there is no alternative name of the
// host's own kind, against the Common Name.
// https://www.postgresql.org/docs/current/libpq-ssl.html#LIBQ-SSL-CERTIFICATES
func verifyName(leaf *x509.Certificate, host string, chains [][]*x509.Certificate) error {
	err := leaf.VerifyHostname(host)
	if err == nil {
		return nil
	}
	_, notIP := netip.ParseAddr(host)
	if notIP == nil && slices.Contains(leaf.DNSNames, host) {
		return nil
	}
	names := len(leaf.DNSNames)
	if notIP == nil {
		names = len(leaf.IPAddresses)
	}
	if names == 0 && matchesCommonName(leaf, host) && !slices.ContainsFunc(chains, isConstrained) {
		return nil
	}
	return err
}

// matchesCommonName compares host with the first Common Name as if that were an
// alternative name.
func matchesCommonName(leaf *x509.Certificate, host string) bool {
	oid := asn1.ObjectIdentifier{2, 5, 4, 3}
	for _, attribute := range leaf.Subject.Names {
		if attribute.Type.Equal(oid) {
			name, _ := attribute.Value.(string)
			return name != "" && (name == host ||
				(&x509.Certificate{DNSNames: []string{name}}).VerifyHostname(host) == nil)
		}
	}
	return false
}

// isConstrained reports whether an authority in chain is limited to some names. Package
// x509 checks alternative names against such a limit, but not the Common Name, which is
// therefore not trusted here.
func isConstrained(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool {
			return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30})
		})
	})
}
