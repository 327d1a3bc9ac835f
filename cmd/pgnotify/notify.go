package main

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify"
)

func runNotify(ctx context.Context, args []string, s streams) error {
	var (
		dsn     string
		timeout time.Duration
	)
	f := newFlags("notify", &dsn)
	durationVar(f, &timeout, "timeout")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 0:
		return usageError("a channel is missing")
	case len(args) > 2:
		return usageError("there are more arguments than a channel and a payload: put quotes around a payload with spaces")
	}
	if err := errors.Join(checkTimeout(timeout), checkChannels(args[:1])); err != nil {
		return err
	}
	connector, err := newConnector(dsn)
	if err != nil {
		return err
	}
	ctx, cancel := until(ctx, timeout)
	defer cancel()
	payload, err := readPayload(ctx, args[1:], s.in)
	if err != nil {
		return err
	}
	err = send(ctx, connector, args[0], payload)
	if errors.Is(err, pgnotify.ErrPayloadTooLong) && args[1] != "-" {
		return usageError(withoutPackage(err))
	}
	return err
}

// send sends a notification over a session of its own.
func send(ctx context.Context, connector *pgnotify.Connector, channel, payload string) error {
	db := sql.OpenDB(connector)
	defer db.Close()
	err := pgnotify.Notify(ctx, db, channel, payload)
	switch {
	case errors.Is(err, pgnotify.ErrChannelName):
		return usageError(withoutPackage(err))
	case err != nil && errors.Is(context.Cause(ctx), errTimeout):
		return errors.New("notify: no answer before the timeout")
	}
	return err
}

// readPayload returns the payload given by the arguments: none, the argument itself, or
// for - all of in without its last newline.
func readPayload(ctx context.Context, args []string, in io.Reader) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	if args[0] != "-" {
		return args[0], nil
	}
	type input struct {
		text []byte
		err  error
	}
	read := make(chan input, 1)
	go func() { // ends with the input or, where that does not end, with the program
		text, err := io.ReadAll(io.LimitReader(in, maxInput))
		read <- input{text, err}
	}()
	select {
	case i := <-read:
		text := strings.TrimSuffix(string(i.text), "\n")
		return strings.TrimSuffix(text, "\r"), i.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// maxInput is enough to see that a payload is too long.
const maxInput = 1 << 20
