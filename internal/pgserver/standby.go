package pgserver

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// StartStandby starts a hot standby that copies s, with its settings, files and
// users, and then follows it by streaming replication. It returns once the
// standby answers; what is written to s from then on arrives a moment later.
//
// A standby is a Server like any other, of the same source: it survives the end
// of s and becomes a primary by SELECT pg_promote(). It may be stopped and
// started, but follows only s, on its port.
//
// It sets wal_keep_size of s, or what was its name before PostgreSQL 13. It is an error for
// Existing, after Close, and for Docker where the daemon does not share unix
// sockets with this machine. ctx and interrupts have the same effect as on
// [Start]. The caller must Close the standby too.
func (s *Server) StartStandby(ctx context.Context) (*Server, error) {
	s.mu.Lock()
	err := s.usableLocked()
	s.mu.Unlock()
	if err == nil {
		err = keepWAL(ctx, s.dsn)
	}
	var standby *Server
	if err == nil {
		standby, err = startCaught(ctx, s.backend.standby)
	}
	if err != nil {
		return nil, fmt.Errorf("pgserver: standby: %w", err)
	}
	return standby, nil
}

// keepWAL has a server keep what a standby has not fetched yet: a checkpoint, as
// at the start of each copy, removes it otherwise. The setting stays.
func keepWAL(ctx context.Context, dsn string) error {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	// 512 MB, which PostgreSQL 12 counts in segments of 16 MB.
	const setting = `SELECT 'ALTER SYSTEM SET ' || name || CASE unit WHEN 'MB' THEN ' = 512' ELSE ' = 32' END
		FROM pg_settings WHERE name IN ('wal_keep_size', 'wal_keep_segments')`
	var keep string
	if err := db.QueryRowContext(ctx, setting).Scan(&keep); err != nil {
		return err
	}
	for _, query := range []string{keep, "SELECT pg_reload_conf()"} {
		if _, err := db.ExecContext(ctx, query); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
	}
	return nil
}

// backupOptions copies a server while it runs, with the WAL that is written
// meanwhile, and has the copy follow it.
func backupOptions(data, host string, port int) []string {
	return []string{"-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-h", host, "-p", strconv.Itoa(port), "-U", "postgres"}
}

func (c *cluster) standby(ctx context.Context) (*Server, error) {
	s := &cluster{source: c.source, bin: c.bin, config: maps.Clone(c.config)}
	return s.serve(ctx, func(ctx context.Context) error {
		if err := s.createFolder(); err != nil {
			return err
		}
		if err := s.copyFrom(ctx, c); err != nil {
			return err
		}
		return s.addSettings() // after the primary's, where they win
	})
}

// copyFrom fills the data folder.
func (c *cluster) copyFrom(ctx context.Context, primary *cluster) error {
	const program = "pg_basebackup"
	p, err := c.launch(exec.Command(filepath.Join(c.bin, program), backupOptions(c.data(), loopback, primary.port)...))
	if err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		killGroup(p.cmd.Process) // it has a child that receives the WAL
		<-p.done
		return err
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w%s", program, p.err, c.logTail())
	}
	return nil
}

// primaryMount is where a standby's container sees the folder with the socket of
// its primary, whose address may change with every start.
const primaryMount = "/pgnotify-primary"

func (c *container) standby(ctx context.Context) (*Server, error) {
	if !c.sharesSockets() {
		return nil, errors.New("the daemon does not share unix sockets with this machine")
	}
	s := &container{
		client:   c.client,
		image:    c.image,
		name:     "pgnotify-" + strings.ToLower(rand.Text()),
		password: c.password,
		config:   maps.Clone(c.config),
		primary:  c,
	}
	return s.serve(ctx)
}

// copyFirst returns the command for a standby's container, which is run as
// postgres: it copies the primary at the first start, and then runs command.
func (c *container) copyFirst(command []string) []string {
	const script = `mkdir -p "$PGDATA" && chmod 0700 "$PGDATA" || exit
		[ -s "$PGDATA/PG_VERSION" ] || pg_basebackup %s || exit
		exec "$@"`
	backup := strings.Join(backupOptions(`"$PGDATA"`, primaryMount, c.port), " ")
	return append([]string{"sh", "-c", fmt.Sprintf(script, backup), "sh"}, command...)
}
