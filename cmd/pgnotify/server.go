package main

import (
	"log/slog"
	"strings"

	"github.com/pgnotify/pgnotify"
)

// newConnector returns a connector to the server that -d names: a DSN or, as in psql,
// the name of a database. "" means the environment alone.
func newConnector(d string) (*pgnotify.Connector, error) {
	dsn, err := readServer(d)
	if err != nil {
		return nil, err
	}
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, usageError(withoutPackage(err))
	}
	config.Logger = slog.New(slog.DiscardHandler)
	return pgnotify.NewConnector(config)
}

// readServer makes a DSN of the value of -d. It refuses, and does not repeat, what
// looks like a malformed URL: taken for the name of a database or of a parameter, the
// server would quote all of it, including the password.
func readServer(d string) (dsn string, err error) {
	if isURL(d) || d == "" {
		return d, nil
	}
	name, _, pairs := strings.Cut(d, "=")
	if strings.Contains(name, "@") || strings.Contains(name, "//") {
		return "", usageError("-d is neither a postgres:// URL, nor key=value pairs, nor the name of a database (not repeated here, as it may hold a password)")
	}
	if pairs {
		return d, nil
	}
	return "dbname='" + strings.NewReplacer(`'`, `\'`, `\`, `\\`).Replace(d) + "'", nil
}

func isURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

// checkChannels refuses a DSN in the place of a channel, because channels are printed.
func checkChannels(names []string) error {
	for _, name := range names {
		if isURL(name) {
			return usageError("a URL is in the place of a channel: put -d before it")
		}
	}
	return nil
}
