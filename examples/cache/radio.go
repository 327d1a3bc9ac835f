package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pgnotify/pgnotify"
)

// A radio is a Listener whose session the story can end. It can also keep the Listener
// from getting another session, as a network outage would.
type radio struct {
	*pgnotify.Listener
	away chan struct{} // full while there is no network
	last uint32        // the backend that was terminated last
}

func newRadio(dsn string, onEvent func(pgnotify.ListenerEvent)) (*radio, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	r := &radio{away: make(chan struct{}, 1)}
	config.BeforeConnect = func(ctx context.Context, _ *pgnotify.Config) error {
		select {
		case r.away <- struct{}{}:
			<-r.away
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		return nil, err
	}
	r.Listener, err = pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		OnEvent: onEvent,
		Logger:  slog.New(slog.DiscardHandler), // the story reports the same
	})
	return r, err
}

func (r *radio) leave()  { r.away <- struct{}{} }
func (r *radio) comeIn() { <-r.away }

// cut has the server terminate the Listener's session.
func (r *radio) cut(ctx context.Context, t table) error {
	health, err := r.settle(ctx)
	if err != nil {
		return err
	}
	r.last = health.PID
	ended := false
	err = t.db.QueryRowContext(ctx, "SELECT pg_terminate_backend($1)", health.PID).Scan(&ended)
	if err == nil && !ended {
		err = fmt.Errorf("there is no backend %d", health.PID)
	}
	return err
}

// settle waits for a session that was not terminated.
func (r *radio) settle(ctx context.Context) (pgnotify.Health, error) {
	for {
		health, err := r.Ping(ctx)
		if err == nil && health.PID != r.last || ctx.Err() != nil {
			return health, err
		}
	}
}
