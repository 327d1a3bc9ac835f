package pgnotify

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// Config says how to connect and what to do with what sessions hear. Start from
// [ParseConfig], which fills in what the DSN, the environment and the service
// file say; in a Config made by hand, Host, Port and User at least are to be
// set. A zero field means the default that its comment states. The embedded
// [pq.Config] has the parameters of lib/pq; of these, an empty SSLMode means
// prefer, or require with TLSConfig or sslnegotiation=direct.
//
// [NewConnector] copies a Config; functions may be called concurrently, for
// different sessions.
type Config struct {
	pq.Config

	// TLSConfig replaces what the ssl… parameters say about certificates and
	// their verification; sslmode still says whether TLS is spoken, and may not be
	// disable. An empty ServerName becomes the host. nil: the ssl… parameters.
	TLSConfig *tls.Config

	// DialContext opens the connections, those of cancel requests too. addr is
	// host:port, with the host as configured, or the path of a unix socket. nil: a
	// [net.Dialer], with each address of a host's name tried in turn.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// KeepAlive is TCP's. The zero value is on, with Go's defaults (15 s, 15 s, 9
	// probes); Enable false with a negative Idle is off.
	KeepAlive net.KeepAliveConfig

	// TCPUserTimeout is how long sent data may remain unacknowledged before the
	// connection is given up. 0: as the kernel does, about 15 minutes. Linux only;
	// ignored elsewhere, as in libpq.
	TCPUserTimeout time.Duration

	// CancelTimeout is how long a cancelled statement may take to end. Then its
	// session is closed. 0: 5 s.
	CancelTimeout time.Duration

	// StatementCacheSize is how many prepared statements a session keeps for
	// queries with arguments, which then need one round trip instead of two. The one
	// used longest ago makes room. 0: 256; negative: none, as behind a pooler that
	// shares the server's sessions between transactions and does not know prepared
	// statements. With binary_parameters there are none either.
	StatementCacheSize int

	// BeforeConnect is called before each host is tried, in each pass over the
	// list, with a copy of the Config for that attempt: Host, Hostaddr and Port are
	// those of the host, Multi is empty. The addresses of its name, and the
	// fallbacks of sslmode, are tried with the same copy. It may change the copy, for example set a fresh
	// password; what it does to the fields from KeepAlive on, and to
	// TargetSessionAttrs and LoadBalanceHosts, is ignored. It has connect_timeout
	// for itself. Its error ends Connect.
	BeforeConnect func(ctx context.Context, config *Config) error

	// OnConnect is called with each new session before the pool gets it. Its error
	// closes the session and ends Connect.
	OnConnect func(ctx context.Context, conn *Conn) error

	// OnNotice is called with each notice of each session, those of the start-up
	// too, before the handlers of [NoticeConn] and under the same rules.
	OnNotice func(conn *Conn, notice *Notice)

	// OnNotification is called with each notification of each session, before the
	// handlers of [NotificationConn] and under the same rules.
	OnNotification func(conn *Conn, notification Notification)

	// OnDisconnect is called once for each session that the pool got, when it has
	// ended, with the reason; that is [ClosedLocally] for one that the pool or the
	// program closed. The handle tells the PID and nothing is to be run on it. It is
	// called on a goroutine of its own. On Linux, macOS and the BSDs it is called
	// at once for idle sessions too; elsewhere, when the session is used next.
	OnDisconnect func(conn *Conn, err *DisconnectError)

	// Logger gets what has no other place to go: panics of handlers, notices that
	// were dropped. No secrets, no statements. nil: [slog.Default].
	Logger *slog.Logger
}

// defaultCancelTimeout is the default of Config.CancelTimeout.
const defaultCancelTimeout = 5 * time.Second

func (c *Config) cancelTimeout() time.Duration {
	if c.CancelTimeout > 0 {
		return c.CancelTimeout
	}
	return defaultCancelTimeout
}

// Clone returns a copy that may be changed without a change of c.
func (c *Config) Clone() *Config {
	clone := *c
	clone.Config = c.Config.Clone()
	clone.Multi = slices.Clone(c.Multi)
	clone.Runtime = maps.Clone(c.Runtime)
	clone.TLSConfig = c.TLSConfig.Clone()
	return &clone
}

// String names the server, the user and the database, and nothing secret.
func (c Config) String() string {
	return fmt.Sprintf("%s user=%s dbname=%s", transport.Endpoints(&c.Config)[0], c.User, c.Database)
}

// GoString is String: %#v shows no password either.
func (c Config) GoString() string { return c.String() }

// LogValue implements [slog.LogValuer] by String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// A Connector opens sessions of one Config, for [sql.OpenDB]. It is immutable
// and safe for concurrent use.
type Connector struct {
	config *Config
	policy *transport.Policy
	dialer *transport.Dialer
}

// NewConnector returns a connector for a copy of config. Its errors are about
// settings that contradict each other.
func NewConnector(config *Config) (*Connector, error) {
	if config == nil {
		return nil, fmt.Errorf("pgnotify: NewConnector: the Config is nil; ParseConfig makes one")
	}
	c := &Connector{config: config.Clone()}
	c.config.setDefaults()
	if _, err := sessionAttrs(c.config.TargetSessionAttrs); err != nil {
		return nil, err
	}
	switch c.config.LoadBalanceHosts {
	case "", pq.LoadBalanceHostsDisable, pq.LoadBalanceHostsRandom:
	default:
		return nil, fmt.Errorf("pgnotify: unknown load_balance_hosts %q: use disable or random", string(c.config.LoadBalanceHosts))
	}
	policy, err := transport.NewPolicy(&c.config.Config, c.config.TLSConfig)
	if err != nil {
		return nil, err
	}
	c.policy = policy
	c.dialer = &transport.Dialer{
		DialContext:    c.config.DialContext,
		KeepAlive:      c.config.KeepAlive,
		TCPUserTimeout: c.config.TCPUserTimeout,
		Shuffle:        c.balances(),
	}
	return c, nil
}

// Connect opens a session, within connect_timeout for each address and ctx for
// all. It implements [driver.Connector]; the session is a *[Conn].
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.onConnect(ctx); err != nil {
		return nil, &opError{"OnConnect", err}
	}
	s.tellLoss(true)
	return &s.self, nil
}

// onConnect calls OnConnect, and closes the session if that fails or panics.
func (s *session) onConnect(ctx context.Context) (err error) {
	f := s.config.OnConnect
	if f == nil {
		return nil
	}
	good := false
	defer func() {
		if !good {
			s.close()
		}
	}()
	err = f(ctx, &s.self)
	good = err == nil
	return err
}

// String is that of the Config: nothing secret.
func (c Connector) String() string { return c.config.String() }

// GoString is String.
func (c Connector) GoString() string { return c.String() }

// Driver implements [driver.Connector].
func (c *Connector) Driver() driver.Driver { return &Driver{} }
