package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// greeterFlag has this program be a greeter: a server that lets everybody in and
// then says nothing. The other one has it want TLS, too.
const (
	greeterFlag       = "-be-a-greeter"
	secureGreeterFlag = "-be-a-secure-greeter"
)

// greeting lets a session in: what the drivers want to hear before they believe
// in it. See https://www.postgresql.org/docs/current/protocol-message-formats.html.
var greeting = strings.Join([]string{
	message('R', "\x00\x00\x00\x00"),
	message('S', "server_version\x0018.0\x00"),
	message('S', "client_encoding\x00UTF8\x00"),
	message('S', "standard_conforming_strings\x00on\x00"),
	message('K', "\x00\x00\x00\x01key!"),
	message('Z', "I"),
}, "")

func message(typ byte, body string) string {
	length := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	return string(typ) + string(length) + body
}

// backendAnswer says that process 1, of which greeting speaks, serves the session.
var backendAnswer = message('T', "\x00\x01pid\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x17\x00\x04\xff\xff\xff\xff\x00\x00") +
	message('D', "\x00\x01\x00\x00\x00\x011") + message('C', "SELECT 1\x00")

// greet reads the start-up packet of a session and lets it in.
func greet(c net.Conn) error {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if _, err := io.CopyN(io.Discard, c, length-int64(len(head))); err != nil {
		return err
	}
	_, err := io.WriteString(c, greeting)
	return err
}

// listen returns a listener for sessions, and what to connect to it with.
func listen() (l net.Listener, dsn string, err error) {
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	address := l.Addr().(*net.TCPAddr)
	return l, fmt.Sprintf("host=%s port=%d user=bench dbname=bench sslmode=disable", address.IP, address.Port), nil
}

// beGreeter lets everybody in and then says nothing.
func beGreeter(l net.Listener) {
	go serveSilence(l, nil) // ends with the process
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// beSecureGreeter is the same with TLS.
func beSecureGreeter(l net.Listener) {
	config, err := throwawayTLS()
	if err != nil {
		fmt.Fprintln(os.Stderr, "greeter:", err)
		os.Exit(1)
	}
	go serveSilence(l, config) // ends with the process
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func serveSilence(l net.Listener, config *tls.Config) {
	for {
		c, err := l.Accept()
		if err != nil { // too many files are open, until those of the last round are closed
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go beSilent(c.(*net.TCPConn), config) // ends with the connection
	}
}

// beSilent ends a connection after the client has, with a reset: nothing of it is
// left then, and tens of thousands of connections need no ports in TIME_WAIT.
func beSilent(c *net.TCPConn, config *tls.Config) {
	defer c.Close()
	if s, err := letIn(c, config); err == nil {
		var goodbye [16]byte
		for err == nil {
			_, err = s.Read(goodbye[:])
		}
	}
	_ = c.SetLinger(0)
}

// letIn returns the session's connection, with TLS where that is configured.
func letIn(c net.Conn, config *tls.Config) (s net.Conn, err error) {
	if s = c; config != nil {
		if s, err = secure(c, config); err != nil {
			return nil, err
		}
	}
	return s, greet(s)
}
