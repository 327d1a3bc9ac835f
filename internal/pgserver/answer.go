package pgserver

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/lib/pq"
)

// loopback is the only address on which a throwaway server listens.
const loopback = "127.0.0.1"

// ask connects to dsn and returns the server's version and cluster_name.
func ask(ctx context.Context, dsn string) (version, cluster string, err error) {
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return "", "", err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	const query = `SELECT current_setting('server_version'), coalesce(current_setting('cluster_name', true), '')`
	err = db.QueryRowContext(ctx, query).Scan(&version, &cluster)
	version, _, _ = strings.Cut(version, " ") // without the packager's name
	return version, cluster, err
}

// awaitAnswer asks dsn until the server whose cluster_name is cluster answers, and
// returns its version. Another server that has taken the port meanwhile does not count.
// It gives up when ended reports an error, or after startWait.
func awaitAnswer(ctx context.Context, dsn, cluster string, ended func() error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		version, got, err := askBriefly(ctx, dsn)
		if err == nil && got == cluster {
			return version, nil
		}
		if err == nil {
			err = fmt.Errorf("another server is at this address (cluster_name %q)", got)
		}
		if gone := ended(); gone != nil {
			return "", gone
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("no answer: %w (at last: %v)", ctx.Err(), err)
		}
	}
}

// askBriefly is ask for one attempt of many.
func askBriefly(ctx context.Context, dsn string) (version, cluster string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return ask(ctx, dsn)
}

// freePort returns a loopback port that was free a moment ago. Another program may take
// it before it is used; callers then try again with another port.
func freePort() (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
