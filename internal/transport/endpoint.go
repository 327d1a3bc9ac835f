package transport

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lib/pq"
)

const (
	defaultHost = "localhost"
	defaultPort = 5432
)

// Endpoint is one server of the connection string. It is a plain value.
type Endpoint struct {
	// Host is a name, an IP address, the folder of a unix socket, or "@name"
	// for an abstract one.
	Host string

	// Hostaddr, when valid, is dialled without a name look-up, and Host is
	// kept for TLS.
	Hostaddr netip.Addr

	Port uint16
}

// Endpoints returns the servers of cfg in the order given: its own host, then
// those of cfg.Multi. An empty host without an address is localhost, port 0 is
// 5432, and the brackets of an IPv6 address are taken off.
//
// [pq.NewConfig] sets Host to localhost where the string names only hostaddr.
// With sslmode=verify-full that name would be verified; a caller who knows that
// no host was given should clear it, so that the missing name is reported.
func Endpoints(cfg *pq.Config) []Endpoint {
	list := make([]Endpoint, 0, 1+len(cfg.Multi))
	list = append(list, newEndpoint(cfg.Host, cfg.Hostaddr, cfg.Port))
	for _, m := range cfg.Multi {
		list = append(list, newEndpoint(m.Host, m.Hostaddr, m.Port))
	}
	return list
}

func newEndpoint(host string, addr netip.Addr, port uint16) Endpoint {
	if host == "" && !addr.IsValid() {
		host = defaultHost
	}
	if port == 0 {
		port = defaultPort
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if ip, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil {
			host = ip.String()
		}
	}
	return Endpoint{Host: host, Hostaddr: addr, Port: port}
}

// Unix reports whether e is a Unix socket. With Hostaddr it never is.
func (e Endpoint) Unix() bool { return !e.Hostaddr.IsValid() && isSocketPath(e.Host) }

// String returns the name of e for errors: "db.example:5432", "[::1]:5432", or the full
// path of a Unix socket.
func (e Endpoint) String() string {
	if e.Unix() {
		return e.socketPath()
	}
	host := e.Host
	if host == "" && e.Hostaddr.IsValid() {
		host = e.Hostaddr.String()
	}
	return net.JoinHostPort(host, e.port())
}

func (e Endpoint) port() string { return strconv.Itoa(int(e.Port)) }

// socketPath returns the path of the socket of a server with this port. An abstract
// socket is named by the same rule.
func (e Endpoint) socketPath() string {
	return filepath.Join(e.Host, ".s.PGSQL."+e.port())
}

// tlsName returns the name that the server's certificate must have and that SNI sends,
// or "" if the endpoint has none.
func (e Endpoint) tlsName() string {
	if isSocketPath(e.Host) {
		return ""
	}
	return e.Host
}

func isSocketPath(host string) bool {
	return strings.HasPrefix(host, "@") || strings.HasPrefix(host, "/") || filepath.IsAbs(host)
}
