package main

import (
	"context"
	"database/sql"
	"net"

	"github.com/pgnotify/pgnotify"
)

// noSocketName is pgnotify over connections that are no sockets. They cannot be watched,
// so a goroutine reads each of them ahead.
const noSocketName = "no socket"

// dialingConnector returns a connector whose connections are sockets, or hide that.
func dialingConnector(dsn string, sockets bool) (*pgnotify.Connector, error) {
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	config.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil || sockets {
			return c, err
		}
		return struct{ net.Conn }{c}, nil
	}
	return pgnotify.NewConnector(config)
}

// openWatched returns an opener of such pools. Sessions over sockets are watched for
// their end by one poller.
func openWatched(sockets bool) func(dsn string) (*sql.DB, error) {
	return func(dsn string) (*sql.DB, error) {
		c, err := dialingConnector(dsn, sockets)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(c), nil
	}
}

// watchedScenario is a query on a session over a socket, which is watched, and on one over
// a connection that is no socket.
func watchedScenario() scenario {
	s := scenario{
		name:  "query/watched",
		about: "query/simple of pgnotify, over a socket, which is watched, and over a connection that is none",
		unit:  "queries",
		count: 4000,
		quick: 500,
		metrics: []metric{
			{label: "CPU, µs", quantity: cpuMicros, summary: medianOf},
			{label: "CPU, times those without a socket", quantity: cpuMicros, summary: medianOf, base: []string{noSocketName}, relate: ratio},
			{label: "wall time, µs", quantity: wallMicros, summary: medianOf},
			{label: "wall time, times those without a socket", quantity: wallMicros, summary: medianOf, base: []string{noSocketName}, relate: ratio},
			{label: allocationsLabel, quantity: allocs, summary: medianOf},
			{label: "bytes allocated", quantity: allocBytes, summary: medianOf},
		},
	}
	for _, c := range []struct {
		name    string
		sockets bool
	}{{pgnotifyName, true}, {noSocketName, false}} {
		s.contenders = append(s.contenders, contender{name: c.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			db, err := openWatched(c.sockets)(dsn)
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
