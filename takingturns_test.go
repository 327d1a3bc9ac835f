package pgnotify_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// A turnPooler is a pooler in transaction mode at its worst: of its two sessions on the
// server, each of a client's transactions gets the one that the last did not get, and in
// between another client has parsed its own unnamed statement there. What runs as two
// transactions runs that statement, without an error.
type turnPooler struct {
	fake         *pgfake.Server
	transactions atomic.Int64      // of all clients
	messages     collector[string] // their types, of all clients
}

// startTurnPooler starts one. foreign is the other client's statement.
func startTurnPooler(t *testing.T, foreign string) *turnPooler {
	t.Helper()
	p := new(turnPooler)
	p.fake = pgfake.Start(t, pgfake.Script{pgfake.Greet(),
		pgfake.Send(pgfake.Parameter("standard_conforming_strings", "on")), // for the next answer
		func(c *pgfake.Session) error { return p.serve(t, c, foreign) }})
	return p
}

// serve is a client's session.
func (p *turnPooler) serve(t *testing.T, client *pgfake.Session, foreign string) error {
	servers := []*backend{dialBackend(t), dialBackend(t)}
	for _, s := range servers {
		defer s.Close()
	}
	parse := append(pgfake.Frame('P', "\x00"+foreign+"\x00\x00\x00"), pgfake.Frame('S', "")...)
	for turn := 0; ; turn++ {
		server := servers[turn%2]
		if _, err := server.relay(parse, "Z", func([]byte, byte) error { return nil }); err != nil {
			return err
		}
		for status := byte('T'); status != 'I'; {
			typ, body, err := client.Message()
			if err != nil || typ == 'X' {
				return err
			}
			p.messages.add(string(typ))
			until := map[byte]string{'Q': "ZG", 'S': "Z", 'H': "TnE", 'c': "Z", 'f': "Z"}[typ] // else there is no answer yet
			status, err = server.relay(pgfake.Frame(typ, string(body)), until, func(answer []byte, status byte) error {
				if status == 'I' {
					p.transactions.Add(1) // before the client knows
				}
				_, err := client.Write(answer)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
}

// A backend is a session of the server, without a driver.
type backend struct {
	net.Conn
	r *bufio.Reader
}

// dialBackend has lib/pq log in.
func dialBackend(t *testing.T) *backend {
	b := new(backend)
	c, err := pq.NewConnector(dsn(t) + " sslmode=disable application_name=" + appName)
	if err != nil {
		t.Error(err)
	}
	c.Dialer(b)
	if _, err := c.Connect(testContext(t)); err != nil {
		t.Error(err)
	}
	b.r = bufio.NewReader(b.Conn)
	return b
}

// Dial implements pq.Dialer.
func (b *backend) Dial(network, address string) (net.Conn, error) {
	return b.DialTimeout(network, address, 0)
}

// DialTimeout implements pq.Dialer.
func (b *backend) DialTimeout(network, address string, timeout time.Duration) (_ net.Conn, err error) {
	b.Conn, err = net.DialTimeout(network, address, timeout)
	return b.Conn, err
}

// relay sends a message to the server, and each one of the answer to a client, up to one
// of the given types. With a ReadyForQuery comes the transaction status.
func (b *backend) relay(message []byte, until string, client func(answer []byte, status byte) error) (status byte, err error) {
	if _, err := b.Write(message); err != nil {
		return 0, err
	}
	for typ := byte(0); until != "" && strings.IndexByte(until, typ) < 0; {
		var header [5]byte
		if _, err := io.ReadFull(b.r, header[:]); err != nil {
			return 0, err
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(b.r, body); err != nil {
			return 0, err
		}
		if typ = header[0]; typ == 'Z' {
			status = body[0]
		}
		if err := client(append(header[:], body...), status); err != nil {
			return 0, err
		}
	}
	return status, nil
}
