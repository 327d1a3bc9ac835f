package main

import (
	"context"
	"database/sql"
	"net"
	"syscall"

	"github.com/pgnotify/pgnotify"
)

// unwatchedName is pgnotify over connections that it cannot watch.
const unwatchedName = "unwatched"

// watchedConnector returns a connector whose sessions are watched for their end,
// or are not. All else is the same.
func watchedConnector(dsn string, watched bool) (*pgnotify.Connector, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		hidden := unwatchable{c}
		if socket, ok := c.(syscall.Conn); ok && watched {
			return watchable{hidden, socket}, nil
		}
		return hidden, nil
	}
	return pgnotify.NewConnector(config)
}

// An unwatchable connection hides its descriptor.
type unwatchable struct{ net.Conn }

// A watchable one has it to be watched.
type watchable struct {
	unwatchable
	socket syscall.Conn
}

func (c watchable) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

// openWatched returns an opener of such pools.
func openWatched(watched bool) func(dsn string) (*sql.DB, error) {
	return func(dsn string) (*sql.DB, error) {
		c, err := watchedConnector(dsn, watched)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(c), nil
	}
}

// watchedScenario is a query on a session that is watched, and on one that is not.
func watchedScenario() scenario {
	s := scenario{
		name:  "query/watched",
		about: "query/simple of pgnotify, on a watched session and on one that is not",
		unit:  "queries",
		count: 4000,
		quick: 500,
		metrics: []metric{
			{label: "CPU, µs", quantity: cpuMicros, summary: medianOf},
			{label: "CPU, times the unwatched one's", quantity: cpuMicros, summary: medianOf, base: []string{unwatchedName}, relate: ratio},
			{label: "wall time, µs", quantity: wallMicros, summary: medianOf},
			{label: "wall time, times the unwatched one's", quantity: wallMicros, summary: medianOf, base: []string{unwatchedName}, relate: ratio},
			{label: allocationsLabel, quantity: allocs, summary: medianOf},
			{label: "bytes allocated", quantity: allocBytes, summary: medianOf},
		},
	}
	for _, c := range []struct {
		name    string
		watched bool
	}{{pgnotifyName, true}, {unwatchedName, false}} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			db, err := openWatched(c.watched)(dsn)
			if err != nil {
				return nil, err
			}
			if err := poolOfOne(ctx, db); err != nil {
				return nil, err
			}
			return startAsking(ctx, db, selectOne)
		}})
	}
	return s
}
