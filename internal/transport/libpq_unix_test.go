//go:build unix

package transport_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lib/pq"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// setup is a server of the comparison and what is tried with it.
type setup struct {
	server *identity // nil: ssl=off
	modes  []pq.SSLMode
	homes  []home
	hosts  []string
}

// home is what the user has in ~/.postgresql.
type home struct {
	name         string
	root, client *identity
	spoil        func(folder string) error // may be nil
}

// make puts the files into a new folder.
func (h home) make(t *testing.T) string {
	t.Helper()
	folder := privateHome(t, h.root, h.client)
	if h.spoil != nil {
		if err := h.spoil(filepath.Join(folder, ".postgresql")); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// homes returns those that every sslmode is tried with, and those of users who
// made a mistake.
func homes() (usual, odd []home) {
	pki := certs()
	inFile := func(name, text string) func(string) error {
		return func(folder string) error {
			return os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600)
		}
	}
	key := func(change func(path string) error) func(string) error {
		return func(folder string) error { return change(filepath.Join(folder, "postgresql.key")) }
	}
	usual = []home{
		{"right root", pki.ca, nil, nil},
		{"no root", nil, nil, nil},
		{"wrong root", pki.otherCA, nil, nil},
		{"no root, client", nil, pki.client, nil},
		{"right root, client", pki.ca, pki.client, nil},
		{"wrong root, client", pki.otherCA, pki.client, nil},
	}
	odd = []home{
		{"intermediate alone as root", pki.intermediate, nil, nil},
		{"intermediate and root", pki.ca, nil, inFile("root.crt", string(pki.intermediate.certPEM(pki.ca)))},
		{"root file is empty", pki.ca, nil, inFile("root.crt", "")},
		{"key for all to read", nil, pki.client, key(func(path string) error { return os.Chmod(path, 0o644) })},
		{"key with group access", nil, pki.client, key(func(path string) error { return os.Chmod(path, 0o640) })},
		{"executable key", nil, pki.client, key(func(path string) error { return os.Chmod(path, 0o700) })},
		{"no key", nil, pki.client, key(os.Remove)},
		{"another's key", nil, pki.client, inFile("postgresql.key", string(pki.good.keyPEM()))},
		{"empty certificate", nil, pki.client, inFile("postgresql.crt", "")},
		{"no certificate", nil, pki.client, func(folder string) error { return os.Remove(filepath.Join(folder, "postgresql.crt")) }},
	}
	return usual, odd
}

// TestSameAsLibpq is C10: it compares the agreement about TLS with psql's, against
// a real server. It cannot be parallel: it sets HOME.
func TestSameAsLibpq(t *testing.T) {
	if testing.Short() {
		t.Skip("starts PostgreSQL servers; skipped by -short")
	}
	pki := certs()
	pg := newPostgres(t)
	modes := []pq.SSLMode{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	usual, odd := homes()
	hosts := []string{"localhost", "127.0.0.1", "wrong.test"}
	full, trusting := modes[5:], usual[:1]
	seen := map[string]int{}
	for name, s := range map[string]setup{
		"ssl off":                  {nil, modes, usual[:3], hosts[:1]},
		"name":                     {server(pki.ca, []string{"localhost"}), modes, usual, hosts},
		"expired":                  {pki.expired, modes[2:], usual[:2], hosts[:1]},
		"address":                  {server(pki.ca, nil, "127.0.0.1"), full, trusting, hosts},
		"address as a name":        {server(pki.ca, []string{"127.0.0.1"}), full, trusting, hosts},
		"common name":              {serverNamed(pki.ca, "localhost"), full, trusting, hosts},
		"common name, address":     {serverNamed(pki.ca, "127.0.0.1"), full, trusting, hosts},
		"common name, wildcard":    {serverNamed(pki.ca, "*.test"), full, trusting, hosts},
		"common name beside names": {issueNamed(pki.ca, "localhost", "x.test"), full, trusting, hosts},
		"not for servers":          {pki.clientUsage, modes[2:], trusting, hosts[:1]},
		"intermediate not sent":    {pki.underIntermediate, modes[2:], append(odd[:3:3], trusting...), hosts[:1]},
		"odd homes":                {pki.good, []pq.SSLMode{"prefer", "require", "verify-full"}, odd, hosts[:1]},
	} {
		t.Run(name, func(t *testing.T) {
			e := pg.start(t, s.server)
			for _, h := range s.homes {
				folder := h.make(t)
				t.Setenv("HOME", folder)
				for _, mode := range s.modes {
					for _, host := range s.hosts {
						e.Host = host
						ours, err := agreed(t, e, mode)
						theirs, text := pg.agreed(t, e, mode, folder)
						seen[theirs]++
						if ours != theirs {
							t.Errorf("sslmode=%s, host %s, %s: %s, but psql %s\n%v\n%s", mode, host, h.name, ours, theirs, err, text)
						}
					}
				}
			}
		})
	}
	t.Logf("psql's outcomes: %v", seen)
}

// issueNamed makes a server's certificate with a Common Name and another name.
func issueNamed(parent *identity, commonName, dns string) *identity {
	template := leaf(commonName, x509.ExtKeyUsageServerAuth)
	template.DNSNames = []string{dns}
	return issue(template, parent)
}

// agreed says what comes of our side.
func agreed(t *testing.T, e transport.Endpoint, mode pq.SSLMode) (string, error) {
	t.Helper()
	p := mustPolicy(t, pq.Config{SSLMode: mode, SSLSNI: true}, nil)
	conn, err := connect(bounded(t), &transport.Dialer{}, e, p)
	switch {
	case err != nil:
		return isRefused, err
	case conn.Encrypted:
		defer conn.Close()
		return isTLS, nil
	}
	conn.Close()
	return isPlain, nil
}

// postgres makes servers of one data folder, one after the other.
type postgres struct {
	bin, folder string
	as          *syscall.Credential // nil: the user of the test
}

// newPostgres makes the data folder, or skips the test if PostgreSQL is not
// there.
func newPostgres(t *testing.T) *postgres {
	t.Helper()
	pg := &postgres{bin: findPostgres(t)}
	var err error
	if pg.folder, err = os.MkdirTemp("", "pgnotify-transport-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(pg.folder) })
	if os.Getuid() == 0 { // which PostgreSQL refuses to run as
		pg.as = unprivileged(t)
		if err := os.Chown(pg.folder, int(pg.as.Uid), int(pg.as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	initdb := pg.command(bounded(t), "initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", pg.data())
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return pg
}

// findPostgres returns the folder of the programs: that of PATH, or the newest
// where Debian puts them.
func findPostgres(t *testing.T) string {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, filepath.Dir(path))
	}
	for i := len(candidates) - 1; i >= 0; i-- {
		_, noServer := os.Stat(filepath.Join(candidates[i], "initdb"))
		_, noClient := os.Stat(filepath.Join(candidates[i], "psql"))
		if noServer == nil && noClient == nil {
			return candidates[i]
		}
	}
	t.Skip("initdb and psql are found neither by PATH nor in /usr/lib/postgresql/*/bin")
	return ""
}

// unprivileged returns somebody to run the server as.
func unprivileged(t *testing.T) *syscall.Credential {
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
	return nil
}

func (pg *postgres) data() string { return filepath.Join(pg.folder, "data") }

// command is a program of the server's, run as its user.
func (pg *postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(pg.bin, name), args...)
	cmd.Dir = pg.folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if pg.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.as}
	}
	return cmd
}

// start runs a server until the test ends. With a certificate it has ssl=on and
// asks for the client's.
func (pg *postgres) start(t *testing.T, id *identity) transport.Endpoint {
	t.Helper()
	addr := freeAddr(t)
	options := []string{
		"-c", "listen_addresses=127.0.0.1", "-c", fmt.Sprintf("port=%d", addr.Port),
		"-c", "unix_socket_directories=", "-c", "fsync=off",
	}
	if id != nil {
		pg.write(t, "server.crt", id.certPEM())
		pg.write(t, "server.key", id.keyPEM())
		pg.write(t, "clients.crt", certs().ca.certPEM())
		options = append(options, "-c", "ssl=on", "-c", "ssl_ca_file=clients.crt")
	}
	log := filepath.Join(pg.folder, "log")
	up := pg.command(bounded(t), "pg_ctl", "-D", pg.data(), "-w", "-s", "-l", log, "-o", strings.Join(options, " "), "start")
	if err := up.Run(); err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("pg_ctl start: %v\n%s", err, text)
	}
	t.Cleanup(func() {
		down := pg.command(context.Background(), "pg_ctl", "-D", pg.data(), "-w", "-s", "-m", "immediate", "stop")
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("pg_ctl stop: %v\n%s", err, out)
		}
	})
	return transport.Endpoint{Hostaddr: loopback, Port: uint16(addr.Port)}
}

// freeAddr returns an address that nobody listened on a moment ago.
func freeAddr(t *testing.T) *net.TCPAddr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr)
}

// write puts a file into the data folder that is the server's own.
func (pg *postgres) write(t *testing.T, name string, text []byte) {
	t.Helper()
	path := filepath.Join(pg.data(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if pg.as != nil {
		if err := os.Chown(path, int(pg.as.Uid), int(pg.as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// agreed says what comes of psql, and quotes it.
func (pg *postgres) agreed(t *testing.T, e transport.Endpoint, mode pq.SSLMode, home string) (outcome, text string) {
	t.Helper()
	info := fmt.Sprintf("host=%s hostaddr=%s port=%d sslmode=%s user=postgres dbname=postgres gssencmode=disable connect_timeout=20",
		e.Host, e.Hostaddr, e.Port, mode)
	cmd := exec.CommandContext(bounded(t), filepath.Join(pg.bin, "psql"), "-XAtqw", "-d", info,
		"-c", "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	text = string(bytes.TrimSpace(out))
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 2: // psql's code for a bad connection
		return isRefused, text
	case err != nil:
		t.Fatalf("psql: %v\n%s", err, text)
	case text == "t":
		return isTLS, text
	}
	return isPlain, text
}
