package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// A report is a run of the benchmarks.
type report struct {
	Heading  []field
	Outcomes []outcome
}

// A field of the heading says under which circumstances a run was made.
type field struct{ Name, Value string }

func newHeading(ctx context.Context, server *pgserver.Server) ([]field, error) {
	link, version, err := describeServer(ctx, server.DSN())
	if err != nil {
		return nil, err
	}
	return []field{
		{"date", time.Now().UTC().Format("2006-01-02 15:04 MST")},
		{"machine", machine()},
		{"Go", fmt.Sprintf("%s, GOMAXPROCS=%d", runtime.Version(), runtime.GOMAXPROCS(0))},
		{"server", fmt.Sprintf("PostgreSQL %s (%v), %s", version, server.Source(), link)},
		{"drivers", strings.Join(driverVersions(), ", ")},
	}, nil
}

// describeServer asks through each driver and fails where the answers differ:
// one of them would be measured with TLS and another without.
func describeServer(ctx context.Context, dsn string) (link, version string, err error) {
	var first string
	for _, d := range sqlDrivers {
		db, err := d.open(ctx, dsn)
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", d.name, err)
		}
		err = db.QueryRowContext(ctx, `select current_setting('server_version'),
			case when inet_server_addr() is null then 'unix socket' else 'TCP' end ||
			case when ssl then ' with TLS' else ' without TLS' end
			from pg_stat_ssl where pid = pg_backend_pid()`).Scan(&version, &link)
		if err := errors.Join(err, db.Close()); err != nil {
			return "", "", fmt.Errorf("%s: %w", d.name, err)
		}
		if first == "" {
			first = link
		}
		if link != first {
			return "", "", fmt.Errorf("%s connects by %s and %s by %s: say host and sslmode in PGNOTIFY_DSN",
				sqlDrivers[0].name, first, d.name, link)
		}
	}
	return link, version, nil
}

func machine() string {
	m := fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if model := cpuModel(); model != "" {
		m += ", " + model
	}
	return m + loadAverage()
}

// loadAverage returns that of the last minute, after a comma, or "" where only a
// Linux would know.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	load, _, _ := strings.Cut(string(text), " ")
	return ", load average " + load
}

// cpuModel returns "" where only a Linux would know.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// measuredModules are the modules of contenders, and what tables call them.
var measuredModules = []struct{ path, name string }{
	{"github.com/lib/pq", libpqName},
	{"github.com/jackc/pgx/v5", "pgx and " + pgxName + " (default: cached prepared statements)"},
	{"github.com/jackc/pgxlisten", pgxlistenName},
	{"github.com/uptrace/bun/driver/pgdriver", bunName},
}

// driverVersions are those that this program was built with.
func driverVersions() []string {
	versions := []string{"pgnotify of this checkout"}
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return versions
	}
	for _, measured := range measuredModules {
		for _, m := range info.Deps {
			if m.Path == measured.path {
				versions = append(versions, measured.name+" "+m.Version)
			}
		}
	}
	return versions
}
