package main

import (
	"bytes"
	"context"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// bareSocketName is the contender that shows what the server and the system need.
const bareSocketName = "bare socket"

// readyIdle is the end of each answer.
var readyIdle = []byte{'Z', 0, 0, 0, 5, 'I'}

// startBareSocket returns a worker that sends the messages of a prepared statement with
// an argument as they are, reads until the answer is complete, and does not look at it.
func startBareSocket(ctx context.Context, dsn string) (*worker, error) {
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
