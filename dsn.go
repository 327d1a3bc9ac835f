package pgnotify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// ParseConfig reads a DSN in any form that lib/pq accepts, keyword=value or URL, and
// what it lacks from the service file, then from the PG… environment variables. It reads
// lists of hosts as libpq does, including those of a URL
// (postgres://a:5432,b:5433/db). Besides lib/pq's parameters it knows these:
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
// Any other parameter becomes a setting for the server. Those of libpq that are not
// supported are refused with [ErrNotSupported], unless they are blank or ask for what
// happens anyway. Their variables are refused whatever their value.
//
// Errors never contain a value of the DSN that could be a password.
func ParseConfig(dsn string) (*Config, error) {
	config, err := parseSettings(dsn)
	if err != nil {
		return nil, err
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
	if err := config.check(); err != nil {
		return nil, err
	}
	return config, nil
}

// parseSettings has lib/pq read everything but the service file and the list of servers.
func parseSettings(dsn string) (*Config, error) {
	given, err := readSettings(dsn)
	if err != nil {
		return nil, err
	}
	if given == nil {
		if _, err := parseAll(dsn); err != nil {
			return nil, err
		}
		return nil, errPairs
	}
	for _, step := range []func() error{given.checkNames, given.addService, given.checkNUL, given.checkParameters, given.addVersions} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	hosts, err := given.hosts()
	if err != nil {
		return nil, err
	}
	config, err := parseAll(given.forLibpq().pairs())
	if err != nil {
		return nil, err
	}
	hosts.apply(config)
	config.nameless = given.nameless()
	return config, nil
}

// parseAll has lib/pq read a DSN.
func parseAll(dsn string) (*Config, error) {
	parsed, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, dsnError(err)
	}
	if strings.HasPrefix(string(parsed.SSLMode), "pqgo-") { // lib/pq accepts names of TLS configurations
		return nil, errTLSConfig
	}
	return &Config{Config: parsed}, nil
}

// check refuses what must not be sent to the server.
func (c *Config) check() error {
	if err := checkStrings(&c.Config); err != nil {
		return err
	}
	return checkRuntime(c.Runtime)
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
			c.StatementCacheSize = -1 // 0 means none in a DSN; in a Config it means the default
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

// setKeepAlive sets one of the keepalive numbers. As in libpq, 0 means the default, and
// keepalive that is turned off stays off.
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

func isUnixHost(host string) bool {
	return filepath.IsAbs(host) || strings.HasPrefix(host, "@")
}

// dsnError rewrites those errors of lib/pq that quote the DSN, in which a password may
// stand anywhere.
func dsnError(err error) error {
	text := err.Error()
	var value *strconv.NumError
	switch {
	case errors.As(err, &value):
		return valueError(text, value)
	case strings.Contains(text, `"pqgo-`):
		return errTLSConfig
	case strings.HasPrefix(text, `missing "=" after`):
		return errPairs
	case strings.HasPrefix(text, libpqVariable):
		name, _, _ := strings.Cut(strings.TrimPrefix(text, libpqVariable), " ")
		return fmt.Errorf("pgnotify: %s is %w: lib/pq refuses the variable, whatever its value", name, errUnsupported)
	case strings.HasPrefix(text, "pq: "):
		return fmt.Errorf("pgnotify: %w", err)
	}
	return fmt.Errorf("pgnotify: DSN: %w", err)
}

// libpqVariable begins lib/pq's error about a variable of the environment that it refuses.
const libpqVariable = "pq: environment variable "

// errPairs is the error for pairs that cannot be read.
var errPairs = errors.New(`pgnotify: the DSN has a word without "="; it is key=value pairs or a postgres:// URL, and values with spaces need single quotes, and inside them ' and \ need a backslash before them`)

// valueError rewrites lib/pq's error about a number: pq: wrong value for "port": ...
func valueError(text string, value *strconv.NumError) error {
	what, _, _ := strings.Cut(strings.TrimPrefix(text, "pq: "), ": ")
	kind := "a whole number of seconds" // of connect_timeout
	switch value.Func {
	case "ParseBool":
		kind = "yes or no"
	case "ParseUint":
		kind = "a number from 1 to 65535" // of port
	}
	return &opError{what, fmt.Errorf("%q is not %s", value.Num, kind)}
}

// errName is the error for text that stands where a parameter's name should. lib/pq
// would send the name to the server, whose error would quote it.
var errName = errors.New("pgnotify: the DSN has a parameter whose name is not made of letters, digits, _, $ and .; a URL begins with postgres:// or postgresql://")

// errURL is the error for a URL that cannot be read, or that would be misread.
var errURL = errors.New("pgnotify: the DSN is not a valid URL; characters such as # / ? % @ : in a user name or password must be percent-encoded")

// setDefaults gives zero fields of the embedded pq.Config the values that ParseConfig
// would have given them.
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
	if c.ApplicationName == "" && !c.nameless {
		c.ApplicationName = programName()
	}
}

// programName returns the default of application_name: as much of the program's name as
// the server would show, at most 63 printable bytes. A program may be started without a
// name.
func programName() string {
	if len(os.Args) == 0 || os.Args[0] == "" {
		return ""
	}
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, filepath.Base(os.Args[0]))
	return name[:min(len(name), MaxChannelName)]
}
