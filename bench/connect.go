package main

import (
	"context"
	"database/sql"
	"strings"

	"github.com/lib/pq"
)

// connectScenarios are sessions that are opened and closed again: on the real
// server, and on one that lets everybody in, for which that is next to no work,
// without TLS and with it.
func connectScenarios() []scenario {
	plain := connectScenario("connect/plain", "the same with a server that lets everybody in", 400,
		atGreeter(greeterFlag, "disable"))
	plain.contenders = append(plain.contenders, contender{name: bareSocketName, start: startBareConnecting})
	return []scenario{
		connectScenario("connect", "a session is opened and closed", 100, sqlDriver.startConnecting),
		plain,
		connectScenario("connect/tls", "the same with TLS", 200,
			atGreeter(secureGreeterFlag, "require")),
	}
}

func connectScenario(name, about string, count int, start func(sqlDriver, context.Context, string) (*worker, error)) scenario {
	s := scenario{
		name:    name,
		about:   about,
		unit:    "sessions, one after the other",
		count:   count,
		quick:   count / 2,
		metrics: costMetrics("µs", medianOf),
	}
	for _, d := range sqlDrivers {
		s.contenders = append(s.contenders, contender{name: d.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			return start(d, ctx, dsn)
		}})
	}
	return s
}

// startConnecting returns a worker with a pool that keeps no session.
func (d sqlDriver) startConnecting(_ context.Context, dsn string) (*worker, error) {
	db, err := d.openOnce(dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxIdleConns(-1)
	return &worker{
		work:  func(ctx context.Context, count int, _ record) error { return checkOut(ctx, db, count) },
		close: db.Close,
	}, nil
}

// openOnce returns a pool that has read its DSN: lib/pq's would otherwise read it
// again for each session, which the others don't.
func (d sqlDriver) openOnce(dsn string) (*sql.DB, error) {
	if d.name != libpqName {
		return sql.Open(d.registered, dsn)
	}
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// atGreeter returns the same for a server of our own.
func atGreeter(role, sslmode string) func(sqlDriver, context.Context, string) (*worker, error) {
	return func(d sqlDriver, ctx context.Context, _ string) (*worker, error) {
		g, err := startChild(ctx, role)
		if err != nil {
			return nil, err
		}
		w, err := d.startConnecting(ctx, strings.Replace(g.dsn, "sslmode=disable", "sslmode="+sslmode, 1))
		if err != nil {
			return nil, joinClose(err, g.close)
		}
		return &worker{w.work, func() error { return joinClose(w.close(), g.close) }}, nil
	}
}

// checkoutScenario is what a pool's session costs that is taken and given back
// without a query: what the driver does before each use.
func checkoutScenario() scenario {
	s := scenario{
		name:    "checkout",
		about:   "an idle session is taken from the pool and given back, without a query",
		unit:    "times",
		count:   100_000,
		quick:   10_000,
		rounds:  15,
		metrics: costMetrics("ns", inNanos(medianOf)),
	}
	for _, d := range append(sqlDrivers, noDriver) {
		s.contenders = append(s.contenders, contender{name: d.name, start: func(ctx context.Context, dsn string) (*worker, error) {
			db, err := d.open(ctx, dsn)
			if err != nil {
				return nil, err
			}
			return &worker{
				work:  func(ctx context.Context, count int, _ record) error { return checkOut(ctx, db, count) },
				close: db.Close,
			}, nil
		}})
	}
	return s
}

// checkOut takes a session and gives it back.
func checkOut(ctx context.Context, db *sql.DB, count int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range count {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}
