package pgnotify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
	testrig "github.com/pgnotify/pgnotify/internal/rig" // rig is a type of the tests
)

// appName marks the sessions of this run in pg_stat_activity.
var appName = fmt.Sprintf("pgnotify-test-%d", os.Getpid())

// TestMain fails when goroutines, or sessions on the server, are left behind.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(playRole(role))
	}
	code := m.Run()
	for _, check := range []func() error{closeServer, testrig.Lack, func() error { return goleak.Find() }} {
		if err := check(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// A testServer is the PostgreSQL that the tests use. It is started by the first
// test that asks for it.
type testServer struct {
	*pgserver.Server        // nil for PGNOTIFY_TEST_DSN
	dsn              string // over TCP, without TLS where the server is ours
	ca               string // file with the certificate that signed the server's; "" without TLS
	clientCert       string // files of a certificate for the user t_cert
	clientKey        string
	folder           string
}

var theServer struct {
	once sync.Once
	*testServer
	err error
}

// server returns the server, and skips the test where there is none and none
// was asked for.
func server(t testing.TB) *testServer {
	t.Helper()
	theServer.once.Do(func() { theServer.testServer, theServer.err = startServer() })
	if theServer.err == nil {
		return theServer.testServer
	}
	testrig.WithoutServer(t, theServer.err)
	return nil
}

// startServer takes PGNOTIFY_TEST_DSN, or starts the server that the other variables
// choose.
func startServer() (*testServer, error) {
	dsn, err := testrig.GivenDSN()
	if err != nil {
		return nil, err
	}
	if dsn != "" {
		return &testServer{dsn: dsn}, nil
	}
	s, err := testrig.StartServer(map[string]string{
		"max_connections": "300", "max_prepared_transactions": "10",
		"password_encryption": "scram-sha-256", // the default from PostgreSQL 14 on
	})
	if err != nil {
		return nil, err
	}
	ts := &testServer{Server: s, dsn: s.DSN()}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ts.equip(ctx); err != nil {
		return nil, fmt.Errorf("%w; %v", err, s.Close())
	}
	return ts, nil
}

// closeServer ends the server, and reports sessions that a test left on it.
func closeServer() error {
	s := theServer.testServer
	if s == nil {
		return nil
	}
	err := s.leftBehind()
	if s.Server != nil {
		if e := s.Close(); e != nil && err == nil {
			err = e
		}
	}
	os.RemoveAll(s.folder)
	return err
}

// leftBehind waits a moment for sessions to end and reports those that don't.
func (s *testServer) leftBehind() error {
	db, err := sql.Open("postgres", s.dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	var left string
	for range 50 {
		err = db.QueryRow(`select coalesce(string_agg(pid || ' ' || state || ' ' || query, E'\n'), '')
			from pg_stat_activity where application_name = $1`, appName).Scan(&left)
		if err != nil || left == "" {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("sessions left on the server:\n%s", left)
}

// Roles for authentication, one for each method of pg_hba.conf.
const hbaLines = `
host all t_md5 all md5
host all t_scram all scram-sha-256
host all t_password all password
host all t_trust all trust
hostssl all t_cert all cert
host all t_cert all reject
hostssl all t_hostssl all trust
host all t_hostssl all reject
hostnossl all t_hostnossl all trust
host all t_hostnossl all reject
host all t_reject all reject
host all t_rotated all scram-sha-256
local all all trust
`

const testPassword = "correct horse battery staple '\\"

// equip gives the server TLS and the users for authentication tests, over SQL,
// so that it is the same in a container and on this machine.
func (s *testServer) equip(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "pgnotify-test-")
	if err != nil {
		return err
	}
	s.folder = folder
	db, err := sql.Open("postgres", s.dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)

	ca, caKey, err := newCertificate("pgnotify test CA", nil, nil)
	if err != nil {
		return err
	}
	cert, key, err := newCertificate("localhost", ca, caKey)
	if err != nil {
		return err
	}
	client, clientKey, err := newCertificate("t_cert", ca, caKey)
	if err != nil {
		return err
	}
	s.ca = filepath.Join(folder, "root.crt")
	s.clientCert, s.clientKey = filepath.Join(folder, "client.crt"), filepath.Join(folder, "client.key")
	files := map[string]string{s.ca: certPEM(ca), s.clientCert: certPEM(client), s.clientKey: keyPEM(clientKey)}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return firstError(
		writeOnServer(ctx, db, "test_root.crt", certPEM(ca)),
		writeOnServer(ctx, db, "test_server.crt", certPEM(cert)),
		writeOnServer(ctx, db, "test_server.key", keyPEM(key)),
		extendHBA(ctx, db),
		createRoles(ctx, db),
		execAll(ctx, db, "alter system set ssl_ca_file = 'test_root.crt'",
			"alter system set ssl_cert_file = 'test_server.crt'",
			"alter system set ssl_key_file = 'test_server.key'",
			"alter system set ssl = on",
			"select pg_reload_conf()"),
		s.waitForTLS(ctx),
	)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func execAll(ctx context.Context, db *sql.DB, statements ...string) error {
	for _, s := range statements {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// writeOnServer writes a file in the data folder, readable by the server only.
func writeOnServer(ctx context.Context, db *sql.DB, name, text string) error {
	return execAll(ctx, db, "copy (select unnest(string_to_array("+pq.QuoteLiteral(strings.TrimSpace(text))+
		", E'\\n'))) to program 'umask 077; cat > "+name+"'")
}

func extendHBA(ctx context.Context, db *sql.DB) error {
	var lines string
	if err := db.QueryRowContext(ctx, "select pg_read_file('pg_hba.conf')").Scan(&lines); err != nil {
		return err
	}
	return writeOnServer(ctx, db, "pg_hba.conf", hbaLines+strings.ReplaceAll(lines, `\`, `/`))
}

func createRoles(ctx context.Context, db *sql.DB) error {
	password := " password " + pq.QuoteLiteral(testPassword)
	return execAll(ctx, db,
		"set password_encryption = 'md5'", "create role t_md5 login"+password,
		"set password_encryption = 'scram-sha-256'", "create role t_scram login"+password, "create role t_rotated login",
		"create role t_password login"+password,
		"create role t_trust login", "create role t_cert login", "create role t_hostssl login",
		"create role t_hostnossl login", "create role t_reject login")
}

// waitForTLS returns when a reload has taken effect.
func (s *testServer) waitForTLS(ctx context.Context) error {
	db, err := sql.Open("postgres", s.dsn+" sslmode=require")
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		if err = db.PingContext(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func newCertificate(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{name},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if parent == nil {
		parent, parentKey = cert, key
		cert.IsCA, cert.BasicConstraintsValid, cert.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err = x509.ParseCertificate(der)
	return cert, key, err
}

func certPEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func keyPEM(key *ecdsa.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// A mode is a way to reach the server.
type mode struct{ name, dsn string }

// modes returns TCP, TLS and the unix socket, as far as the tests' server has them.
func modes(t testing.TB) []mode { return server(t).modes() }

func (s *testServer) modes() []mode {
	if s.Server == nil {
		return []mode{{"dsn", s.dsn}}
	}
	list := []mode{
		{"tcp", s.dsn + " sslmode=disable"},
		{"tls", s.dsn + " sslmode=verify-full host=localhost hostaddr=127.0.0.1 sslrootcert=" + s.ca},
	}
	if dir := s.SocketDir(); dir != "" {
		list = append(list, mode{"unix", s.dsn + " host=" + dir})
	}
	return list
}

// eachMode runs a test over each way to reach the server, in parallel.
func eachMode(t *testing.T, f func(t *testing.T, db *sql.DB)) {
	t.Helper()
	t.Parallel()
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, m.dsn))
		})
	}
}

// eachSession runs a test over each way to reach the server, with a session that
// is passive at first and with one that is active.
func eachSession(t *testing.T, f func(t *testing.T, db *sql.DB, s *session)) {
	t.Helper()
	eachMode(t, func(t *testing.T, db *sql.DB) {
		for _, active := range []bool{false, true} {
			t.Run(map[bool]string{false: "passive", true: "active"}[active], func(t *testing.T) {
				t.Parallel()
				s := take(t, db)
				if active {
					s.pc.Activate()
				}
				f(t, db, s)
			})
		}
	})
}

// dsn returns the DSN of the fastest way to the server, over TLS if the test's name says
// so.
func dsn(t testing.TB) string {
	all := modes(t)
	if i := slices.IndexFunc(all, func(m mode) bool { return m.name == "tls" }); i >= 0 && overTLS(t) {
		return all[i].dsn
	}
	return all[0].dsn
}

// testContext ends what hangs. It is long, because a machine may be busy.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open returns a pool, closed when the test ends. Options change its Config.
func open(t testing.TB, dsn string, options ...func(*pgnotify.Config)) *sql.DB {
	t.Helper()
	db := sql.OpenDB(connector(t, dsn, options...))
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the pool: %v", err)
		}
	})
	return db
}

// connector returns a connector whose sessions bear the name of this run.
func connector(t testing.TB, dsn string, options ...func(*pgnotify.Config)) *pgnotify.Connector {
	t.Helper()
	config, err := pgnotify.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.ApplicationName = appName
	for _, o := range options {
		o(config)
	}
	connector, err := pgnotify.NewConnector(config)
	if err != nil {
		t.Fatal(err)
	}
	return connector
}

// A session is a connection taken from the pool, with its handle.
type session struct {
	*sql.Conn
	pc *pgnotify.Conn
}

// take takes a session from the pool until the test ends.
func take(t testing.TB, db *sql.DB) *session {
	t.Helper()
	conn, err := db.Conn(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	pc, err := pgnotify.FromConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &session{conn, pc}
}

// execer is what runs statements: a pool, a session, a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func mustExec(t testing.TB, db execer, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(testContext(t), query, args...); err != nil {
		t.Fatalf("%.200s: %v", query, err)
	}
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func queryValue[T any](t testing.TB, db queryer, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(testContext(t), query, args...).Scan(&v); err != nil {
		t.Fatalf("%.200s: %v", query, err)
	}
	return v
}

// uniqueName returns a name for a channel or a table of one test.
func uniqueName(prefix string) string {
	var b [8]byte
	rand.Read(b[:])
	return prefix + "_" + hex.EncodeToString(b[:])
}
