package pgnotify

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// ParseConfig reads a DSN in any form that lib/pq takes, keyword=value or URL,
// with the PG… environment variables and the service file, as [pq.NewConfig]
// does. It knows these parameters beside lib/pq's:
//
//	keepalives            1 or 0: TCP keepalive on or off
//	keepalives_idle       seconds of silence before the first probe
//	keepalives_interval   seconds between probes
//	keepalives_count      probes without answer before the peer is given up
//	tcp_user_timeout      milliseconds that sent data may stay unacknowledged
//	channel_binding       prefer or disable; require is refused, lib/pq cannot
//	cancel_timeout        seconds that a cancelled statement may take to end
//	statement_cache_size  prepared statements kept by a session
//
// No error holds a value of the DSN that could be a password.
func ParseConfig(dsn string) (*Config, error) {
	if isTorn(dsn) {
		return nil, errURL
	}
	parsed, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, dsnError(dsn, err)
	}
	config := &Config{Config: parsed}
	if err := config.checkSSLMode(dsn); err != nil {
		return nil, err
	}
	if config.Hostaddr.IsValid() && config.Host == "localhost" && !hostGiven(dsn) {
		config.Host = "" // lib/pq's default would be the name to verify under TLS
	}
	for name, set := range parameters {
		value, ok := config.Runtime[name]
		if !ok {
			continue
		}
		delete(config.Runtime, name)
		if err := set(config, value); err != nil {
			return nil, &opError{"wrong value for " + strconv.Quote(name), err}
		}
	}
	return config, nil
}

// parameters are those that lib/pq does not know and would send to the server.
var parameters = map[string]func(*Config, string) error{
	"keepalives": func(c *Config, v string) error {
		switch v {
		case "1":
		case "0":
			c.KeepAlive = net.KeepAliveConfig{Idle: -1}
		default:
			return fmt.Errorf("%q is neither 0 nor 1", v)
		}
		return nil
	},
	"keepalives_idle": func(c *Config, v string) error {
		return c.setKeepAlive(v, func(k *net.KeepAliveConfig, n int) { k.Idle = time.Duration(n) * time.Second })
	},
	"keepalives_interval": func(c *Config, v string) error {
		return c.setKeepAlive(v, func(k *net.KeepAliveConfig, n int) { k.Interval = time.Duration(n) * time.Second })
	},
	"keepalives_count": func(c *Config, v string) error {
		return c.setKeepAlive(v, func(k *net.KeepAliveConfig, n int) { k.Count = n })
	},
	"tcp_user_timeout": func(c *Config, v string) error {
		n, err := parseCount(v)
		c.TCPUserTimeout = time.Duration(n) * time.Millisecond
		return err
	},
	"cancel_timeout": func(c *Config, v string) error {
		n, err := parseCount(v)
		c.CancelTimeout = time.Duration(n) * time.Second
		return err
	},
	"statement_cache_size": func(c *Config, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a number", v)
		}
		if c.StatementCacheSize = int(n); n == 0 {
			c.StatementCacheSize = -1 // 0 in a DSN says none; in a Config it is the default
		}
		return nil
	},
	"channel_binding": func(_ *Config, v string) error {
		switch v {
		case "prefer", "disable":
			return nil
		case "require":
			return fmt.Errorf("%w: lib/pq cannot bind SCRAM to the TLS channel; use prefer, or sslmode=verify-full to know the server", ErrNotSupported)
		}
		return fmt.Errorf("%q is not supported; supported values are prefer and disable", v)
	},
}

// setKeepAlive sets one of the keepalive numbers; 0 means the default, as in
// libpq, and turned off stays off.
func (c *Config) setKeepAlive(v string, set func(*net.KeepAliveConfig, int)) error {
	n, err := parseCount(v)
	if err != nil || n == 0 || c.Runtime["keepalives"] == "0" || c.KeepAlive.Idle < 0 {
		return err
	}
	c.KeepAlive.Enable = true
	set(&c.KeepAlive, n)
	return nil
}

func parseCount(v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", v, 1<<31-1)
	}
	return int(n), nil
}

// errTLSConfig tells users of lib/pq's RegisterTLSConfig what to use instead.
var errTLSConfig = fmt.Errorf("%w: sslmode=pqgo-NAME belongs to pq.RegisterTLSConfig; set Config.TLSConfig, and open with NewConnector and sql.OpenDB", ErrNotSupported)

// checkSSLMode mends one thing and refuses another. lib/pq turns TLS off for all
// hosts when the first one is a unix socket; the others must keep what was
// asked for. And it knows sslmodes that are names of TLS configurations.
func (c *Config) checkSSLMode(dsn string) error {
	if strings.HasPrefix(string(c.SSLMode), "pqgo-") {
		return errTLSConfig
	}
	if len(c.Multi) == 0 || !isUnixHost(c.Host) || c.Hostaddr.IsValid() {
		return nil
	}
	other, err := pq.NewConfig(withHost(dsn, "localhost"))
	if err != nil || isUnixHost(other.Host) {
		return errors.New("pgnotify: name a host before the unix socket, so that sslmode can be told for it")
	}
	c.SSLMode = other.SSLMode
	return nil
}

func isUnixHost(host string) bool {
	return filepath.IsAbs(host) || strings.HasPrefix(host, "@")
}

// hostGiven reports whether the DSN, the environment or the service file names a
// host beside hostaddr: whether lib/pq's answer depends on what stands before.
func hostGiven(dsn string) bool {
	const other = "not-given.invalid"
	if os.Getenv("PGHOST") != "" {
		return true
	}
	if u, err := url.Parse(dsn); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		return u.Host != "" || u.Query().Get("host") != ""
	}
	config, err := pq.NewConfig("host=" + other + " " + dsn)
	return err == nil && config.Host != other
}

// withHost returns dsn with another, single host.
func withHost(dsn, host string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return dsn + " host=" + host + " port=5432"
	}
	q := u.Query()
	q.Del("host")
	q.Del("port")
	u.RawQuery, u.Host = q.Encode(), host
	return u.String()
}

// dsnError rewrites those of lib/pq's errors that quote the DSN, where a
// password may stand anywhere.
func dsnError(dsn string, err error) error {
	text := err.Error()
	isURL := strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
	switch {
	case strings.Contains(text, `"pqgo-`):
		return errTLSConfig
	case isURL && isURLError(err):
		return errURL
	case strings.HasPrefix(text, `missing "=" after`):
		return errors.New(`pgnotify: the DSN has a word without "="; it is key=value pairs or a postgres:// URL, and values with spaces need single quotes, and inside them ' and \ need a backslash before them`)
	case strings.HasPrefix(text, "pq: "):
		return fmt.Errorf("pgnotify: %w", err)
	}
	return fmt.Errorf("pgnotify: DSN: %w", err)
}

// errURL is about a URL that cannot be read, or that would be misread.
var errURL = errors.New("pgnotify: the DSN is not a valid URL; characters such as # / ? % @ : in a user name or password must be percent-encoded, and the ports of several hosts go into one port=…,… behind the question mark")

// isTorn reports whether dsn seems to be a URL that a character of its password
// tears apart: then it is valid, but "user:12/34@host" names a host "user" and a
// database "34@host", and errors would show them.
func isTorn(dsn string) bool {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return false
	}
	if u.Fragment != "" || u.User != nil || u.Port() == "" {
		return u.Fragment != ""
	}
	return strings.Contains(u.EscapedPath(), "@") || u.Path == "" && strings.Contains(u.RawQuery, "@")
}

func isURLError(err error) bool {
	var e *url.Error
	return errors.As(err, &e)
}

// setDefaults gives zero fields of the embedded pq.Config the values that
// ParseConfig would have given them.
func (c *Config) setDefaults() {
	if c.Host == "" && !c.Hostaddr.IsValid() {
		c.Host = "localhost"
	}
	if c.Port == 0 {
		c.Port = 5432
	}
	if c.ClientEncoding == "" {
		c.ClientEncoding = "UTF8"
	}
	if c.Datestyle == "" {
		c.Datestyle = "ISO, MDY"
	}
	if c.ApplicationName == "" {
		c.ApplicationName = programName()
	}
}

// programName is the default of application_name: what the server would show of
// it, at most 63 printable bytes.
func programName() string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, filepath.Base(os.Args[0]))
	return name[:min(len(name), MaxChannelName)]
}
