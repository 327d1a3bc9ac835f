package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// identity is a certificate with its key.
type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// certPEM returns i's certificate and those of more, in order.
func (i *identity) certPEM(more ...*identity) []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
	for _, m := range more {
		text = append(text, m.certPEM()...)
	}
	return text
}

func (i *identity) keyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// tls returns i for a tls.Config, followed by the certificates of more.
func (i *identity) tls(more ...*identity) tls.Certificate {
	cert := tls.Certificate{Certificate: [][]byte{i.cert.Raw}, PrivateKey: i.key}
	for _, m := range more {
		cert.Certificate = append(cert.Certificate, m.cert.Raw)
	}
	return cert
}

func (i *identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.cert)
	return pool
}

// issue signs template, which may leave out serial number and dates; a nil
// parent makes it self-signed.
func issue(template *x509.Certificate, parent *identity) *identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-48 * time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(48 * time.Hour)
	}
	if parent == nil {
		parent = &identity{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &identity{cert: cert, key: key}
}

func authority(name string, parent *identity) *identity {
	return issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, parent)
}

// leaf returns a template for a certificate of that Common Name.
func leaf(commonName string, usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

// server returns a server's certificate with the names and addresses.
func server(parent *identity, dns []string, ips ...string) *identity {
	template := leaf("server", x509.ExtKeyUsageServerAuth)
	template.DNSNames = dns
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	return issue(template, parent)
}

// serverNamed returns a server's certificate with nothing but a Common Name.
func serverNamed(parent *identity, commonName string) *identity {
	return issue(leaf(commonName, x509.ExtKeyUsageServerAuth), parent)
}

func client(parent *identity) *identity {
	return issue(leaf("postgres", x509.ExtKeyUsageClientAuth), parent)
}

// pki is what most tests need, made once.
type pki struct {
	ca, otherCA, intermediate        *identity
	good, other, wrongName, expired  *identity
	client, clientUnder, clientOther *identity
	clientUsage, underIntermediate   *identity
	constrained, underConstrained    *identity
}

var certs = sync.OnceValue(func() *pki {
	p := &pki{ca: authority("ca", nil), otherCA: authority("other ca", nil)}
	p.intermediate = authority("intermediate", p.ca)
	local := []string{"localhost"}
	p.good = server(p.ca, local, "127.0.0.1")
	p.other = server(p.otherCA, local, "127.0.0.1")
	p.wrongName = server(p.ca, []string{"wrong.test"}, "127.9.9.9")
	p.underIntermediate = server(p.intermediate, local, "127.0.0.1")
	expired := leaf("server", x509.ExtKeyUsageServerAuth)
	expired.DNSNames = local
	expired.NotAfter = time.Now().Add(-time.Hour)
	p.expired = issue(expired, p.ca)
	usage := leaf("server", x509.ExtKeyUsageClientAuth)
	usage.DNSNames = local
	p.clientUsage = issue(usage, p.ca)
	p.client = client(p.ca)
	p.clientUnder = client(p.intermediate)
	p.clientOther = client(p.otherCA)
	p.constrained = issue(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: "constrained"},
		IsCA:                        true,
		BasicConstraintsValid:       true,
		KeyUsage:                    x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"allowed.test"},
	}, p.ca)
	p.underConstrained = serverNamed(p.constrained, "localhost")
	return p
})

// write puts text into a new private file and returns its path.
func write(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// absent returns the path of a file that does not exist.
func absent(t *testing.T) string { return filepath.Join(t.TempDir(), "absent.pem") }
