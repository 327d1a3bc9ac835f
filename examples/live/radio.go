package main

import (
	"context"
	"database/sql"
	"log/slog"

	"github.com/pgnotify/pgnotify"
)

// A radio is a Listener whose session the story can end. It can also keep the Listener
// from getting another session, as a network outage would.
type radio struct {
	*pgnotify.Listener
	away chan struct{} // full while there is no network
	lost chan struct{} // has a token when a session was lost
}

func newRadio(dsn string) (*radio, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	r := &radio{away: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
	config.BeforeConnect = func(ctx context.Context, _ *pgnotify.Config) error {
		err := r.leave(ctx) // not before the network is there
		if err == nil {
			r.comeIn()
		}
		return err
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		return nil, err
	}
	r.Listener, err = pgnotify.NewListener(connector, &pgnotify.ListenerConfig{
		OnEvent: r.onEvent,
		Logger:  slog.New(slog.DiscardHandler), // the story reports the same
	})
	return r, err
}

// leave takes the network away until comeIn, unless ctx ends first.
func (r *radio) leave(ctx context.Context) error {
	select {
	case r.away <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *radio) comeIn() { <-r.away }

// cut has the server terminate the Listener's session, and returns when it is lost.
func (r *radio) cut(ctx context.Context, db *sql.DB) error {
	health, err := r.Ping(ctx)
	if err != nil {
		return err
	}
	select {
	case <-r.lost: // from an earlier loss
	default:
	}
	if _, err := db.ExecContext(ctx, "SELECT pg_terminate_backend($1)", health.PID); err != nil {
		return err
	}
	select {
	case <-r.lost:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *radio) onEvent(e pgnotify.ListenerEvent) {
	switch e.Kind {
	case pgnotify.ListenerConnected:
		printLine("    the listener has a session")
	case pgnotify.ListenerDisconnected:
		printLine("    the listener has lost its session: %v", e.Err)
		select {
		case r.lost <- struct{}{}:
		default:
		}
	}
}
