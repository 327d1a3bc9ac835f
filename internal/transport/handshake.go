package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// alpn is the protocol's name in TLS.
// https://www.iana.org/assignments/tls-extensiontype-values
const alpn = "postgresql"

// handshake speaks TLS on socket as the client of the server called name. It
// leaves socket closed if ctx ended.
func (p *Policy) handshake(ctx context.Context, socket net.Conn, name string) (*tls.Conn, error) {
	cfg, err := p.clientConfig(socket, name)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(socket, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the server closed the connection during the handshake: %w", err)
		}
		return nil, err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; p.direct && got != alpn {
		return nil, fmt.Errorf("the server did not select the protocol %q by ALPN, "+
			"which sslnegotiation=direct needs", alpn)
	}
	return conn, nil
}

// clientConfig makes the configuration of one handshake.
func (p *Policy) clientConfig(socket net.Conn, name string) (*tls.Config, error) {
	if p.custom != nil {
		return p.customConfig(socket, name), nil
	}
	trust, err := p.files.trust(p.mode, name)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: p.minVersion,
		MaxVersion: p.maxVersion,
		NextProtos: []string{alpn},

		// The rules of sslmode are not those of package tls. They are kept by
		// VerifyConnection, which is called for resumed sessions too.
		InsecureSkipVerify: true,
		VerifyConnection:   trust.verify,
	}
	if p.sni {
		cfg.ServerName = name // of which package tls sends no IP address
	}
	if cfg.GetClientCertificate, err = p.files.clientCertificate(trust); err != nil {
		return nil, err
	}
	return cfg, nil
}

// customConfig fills in what the user's configuration leaves open. A server known only
// by its address has the address for a name.
func (p *Policy) customConfig(socket net.Conn, name string) *tls.Config {
	cfg := p.custom.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = name
	}
	if addr := socket.RemoteAddr(); cfg.ServerName == "" && addr != nil { // other people's connections may have none
		if addr, err := netip.ParseAddrPort(addr.String()); err == nil {
			cfg.ServerName = addr.Addr().Unmap().String()
		}
	}
	if len(cfg.NextProtos) == 0 {
		cfg.NextProtos = []string{alpn}
	}
	return cfg
}
