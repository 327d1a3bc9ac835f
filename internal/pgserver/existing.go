package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lib/pq"
)

// dsnVariable names the server that the user wants to be used.
const dsnVariable = "PGNOTIFY_DSN"

// existingWait bounds how long the server of the PG* variables may take to
// answer, and namedWait that of PGNOTIFY_DSN, which was asked for by name.
const (
	existingWait = 3 * time.Second
	namedWait    = 15 * time.Second
)

// pgVariables are those that hint at a server. Others, such as PGPASSWORD, only
// say how to talk to one.
var pgVariables = []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER"}

func startExisting(ctx context.Context) (*Server, error) {
	if dsn := os.Getenv(dsnVariable); dsn != "" {
		return existing(ctx, dsn, dsnVariable, namedWait)
	}
	for _, name := range pgVariables {
		if os.Getenv(name) != "" {
			return existing(ctx, "", name, existingWait)
		}
	}
	return nil, fmt.Errorf("neither %s nor any of %s is set", dsnVariable, strings.Join(pgVariables, ", "))
}

// existing returns the server of dsn, which the variable has named.
func existing(ctx context.Context, dsn, variable string, wait time.Duration) (*Server, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%s is set, but %w", variable, unreadable(dsn, err))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	version, _, err := ask(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("%s is set, but its server cannot be used: %w", variable, redact(err, cfg.Password))
	}
	s := &Server{source: Existing, dsn: dsn, host: cfg.Host, port: int(cfg.Port), origin: variable, version: version}
	if strings.HasPrefix(cfg.Host, "/") {
		s.socketDir = cfg.Host
	}
	return s, nil
}

// unreadable describes err, from parsing dsn. It does not pass the parser's text on,
// which may quote any part of the DSN, including the password.
func unreadable(dsn string, err error) error {
	if dsn == "" {
		return err
	}
	return errors.New("is not a connection string that can be read (not repeated here, as it may hold a password)")
}

// redact returns err, without the password if its text contains it.
func redact(err error, password string) error {
	if password == "" || !strings.Contains(err.Error(), password) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), password, "xxxxx"))
}
