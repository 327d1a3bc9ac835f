package main

import (
	"log/slog"
	"strings"

	"github.com/pgnotify/pgnotify"
)

// newConnector returns a connector to what -d names: a DSN or, as for psql, the
// name of a database. "" is the environment alone.
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

// readServer makes a DSN of what -d names. What looks like a URL that was not
// written well is refused, and not repeated: as the name of a database, or of
// a parameter, the server would tell all of it, the password too.
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

// checkChannels refuses a DSN in the place of a channel, which would be printed.
func checkChannels(names []string) error {
	for _, name := range names {
		if isURL(name) {
			return usageError("a URL is in the place of a channel: put -d before it")
		}
	}
	return nil
}
