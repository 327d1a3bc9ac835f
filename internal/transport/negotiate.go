package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// sslRequest is the SSLRequest message: its length and the code 80877103.
// https://www.postgresql.org/docs/current/protocol-message-formats.html
var sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

const (
	maxErrorText  = 1024        // bytes read of an error that comes in place of S or N
	errorTextWait = time.Second // how long they may take to come
	maxQuoted     = 200         // characters of it that are quoted
)

// requestTLS asks the server for TLS and reports whether it agreed. It reads the one
// byte of the answer and no more: bytes that a third party puts behind it must not be
// taken for the server's (CVE-2021-23222). It leaves socket closed if ctx ended.
func requestTLS(ctx context.Context, socket net.Conn) (bool, error) {
	var answer [1]byte
	err := closeOnDone(ctx, socket, func() error {
		if _, err := socket.Write(sslRequest); err != nil {
			return fmt.Errorf("send the request: %w", err)
		}
		_, err := io.ReadFull(socket, answer[:])
		return err
	})
	switch {
	case errors.Is(err, io.EOF):
		return false, fmt.Errorf("the server closed the connection during TLS negotiation: %w", err)
	case err != nil:
		return false, err
	}
	switch answer[0] {
	case 'S':
		return true, nil
	case 'N':
		return false, nil
	case 'E':
		return false, errorAnswer(ctx, socket)
	}
	return false, fmt.Errorf("the answer to the request is the byte 0x%02x, which is not PostgreSQL's", answer[0])
}

// closeOnDone calls f, which uses socket, and closes socket if ctx ends before f
// returns. Closing, unlike a deadline, interrupts every kind of net.Conn and leaves
// nothing to restore. If ctx ended first, its error is returned even if f succeeded,
// because socket is closed.
func closeOnDone(ctx context.Context, socket net.Conn, f func() error) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		socket.Close()
	})
	err := f()
	if !stop() {
		<-closed // joins the goroutine of AfterFunc
		return ctx.Err()
	}
	return err
}

// errorAnswer reads the error that a server sends in place of an answer when it could
// not even start a process for the session. It may come from anyone, so it is only
// quoted, and only little of it is read; libpq shows nothing at all (CVE-2024-10977).
// It leaves socket closed if the text did not end in time.
func errorAnswer(ctx context.Context, socket net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, errorTextWait)
	defer cancel()
	var raw []byte
	_ = closeOnDone(ctx, socket, func() (err error) {
		raw, err = io.ReadAll(io.LimitReader(socket, maxErrorText))
		return err
	})
	if text := errorText(raw); text != "" {
		return fmt.Errorf(`the unverified server answered with an error: "%s"`, text)
	}
	return errors.New("the unverified server answered with an error")
}

// errorText returns what can be shown of an error without its type byte: the
// message field of an ErrorResponse, or the plain text up to its NUL that old
// protocol versions used. The length of an ErrorResponse begins with a NUL.
func errorText(raw []byte) string {
	if len(raw) >= 4 && raw[0] == 0 {
		return Printable(bytes.TrimSpace(messageField(raw[4:])), maxQuoted)
	}
	text, _, _ := bytes.Cut(raw, []byte{0})
	return Printable(bytes.TrimSpace(text), maxQuoted)
}

// messageField returns the field M of an ErrorResponse, which may be cut short.
func messageField(fields []byte) []byte {
	for len(fields) > 0 && fields[0] != 0 {
		value, rest, _ := bytes.Cut(fields[1:], []byte{0})
		if fields[0] == 'M' {
			return value
		}
		fields = rest
	}
	return nil
}
