package main

import (
	"bytes"
	"context"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// bareSocketName is the contender that shows what the server and the system need.
const bareSocketName = "bare socket"

// readyIdle is the end of each answer.
var readyIdle = []byte{'Z', 0, 0, 0, 5, 'I'}

// startBareAsking returns a worker that sends the messages of a prepared statement with
// an argument as they are, reads until the answer is complete, and does not look at it.
func startBareAsking(ctx context.Context, dsn string) (*worker, error) {
	c, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	const name = "one"
	if _, err := c.Prepare(ctx, name, "select $1::int", nil); err != nil {
		return nil, joinClose(err, func() error { return c.Close(ctx) })
	}
	bare, err := c.Hijack()
	if err != nil {
		return nil, joinClose(err, func() error { return c.Close(ctx) })
	}
	var request []byte
	for _, message := range []pgproto3.FrontendMessage{
		&pgproto3.Bind{PreparedStatement: name, Parameters: [][]byte{[]byte("1")}},
		&pgproto3.Execute{},
		&pgproto3.Sync{},
	} {
		if request, err = message.Encode(request); err != nil {
			return nil, joinClose(err, bare.Conn.Close)
		}
	}
	return &worker{
		work: func(_ context.Context, count int, _ record) error {
			answer := make([]byte, 4096)
			for range count {
				if err := askBare(bare.Conn, request, answer); err != nil {
					return err
				}
			}
			return nil
		},
		close: bare.Conn.Close,
	}, nil
}

func askBare(conn net.Conn, request, answer []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	for n := 0; !bytes.HasSuffix(answer[:n], readyIdle); {
		more, err := conn.Read(answer[n:])
		if err != nil {
			return err
		}
		n += more
	}
	return nil
}

// startBareConnecting returns a worker that connects to the greeter, says who it is,
// reads until the server is ready, and says goodbye.
func startBareConnecting(ctx context.Context, _ string) (*worker, error) {
	g, err := startChild(ctx, greeterFlag)
	if err != nil {
		return nil, err
	}
	config, err := pgconn.ParseConfig(g.dsn)
	if err != nil {
		return nil, joinClose(err, g.close)
	}
	hello, err := (&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": config.User, "database": config.Database},
	}).Encode(nil)
	if err != nil {
		return nil, joinClose(err, g.close)
	}
	goodbye, err := (&pgproto3.Terminate{}).Encode(nil)
	if err != nil {
		return nil, joinClose(err, g.close)
	}
	address := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	return &worker{
		work: func(_ context.Context, count int, _ record) error {
			answer := make([]byte, 4096)
			for range count {
				if err := visitBare(address, hello, goodbye, answer); err != nil {
					return err
				}
			}
			return nil
		},
		close: g.close,
	}, nil
}

func visitBare(address string, hello, goodbye, answer []byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	if err := askBare(conn, hello, answer); err != nil {
		return joinClose(err, conn.Close)
	}
	_, err = conn.Write(goodbye)
	return joinClose(err, conn.Close)
}
