package pgnotify

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// Config says how to connect, and what to do with what sessions receive. Start from
// [ParseConfig], which reads the DSN, the environment and the service file. A Config
// made by hand must set at least Host, Port and User. A zero field means the default
// stated in its comment. The embedded [pq.Config] has lib/pq's parameters; its empty
// SSLMode means prefer, or require with TLSConfig or sslnegotiation=direct.
//
// [NewConnector] copies a Config. Its functions may be called concurrently for
// different sessions.
type Config struct {
	pq.Config

	// TLSConfig replaces what the ssl… parameters say about certificates and their
	// verification. sslmode still decides whether TLS is used, and must not be disable.
	// An empty ServerName becomes the host. nil: the ssl… parameters.
	TLSConfig *tls.Config

	// DialContext opens the connections, including those of cancel requests. addr is
	// host:port, with the host as configured, or the path of a Unix socket. nil: a
	// [net.Dialer], which tries each address of a host name in turn.
	//
	// Any net.Conn will do, also one without deadlines whose Close does not end a Read
	// or a Write, as from x/crypto/ssh. A connection other than a *net.TCPConn and a
	// *net.UnixConn is read ahead by a goroutine, and written by another one. Nothing
	// waits for them when the session ends: a Read and a Write that Close does not end
	// stay until they end by themselves.
	//
	// DialContext should end when ctx does. If it does not, Connect returns all the
	// same and leaves it behind; a connection that comes too late is closed. While 100
	// calls are left behind, no further one is made, which is an error.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// KeepAlive configures TCP keepalive. The zero value is on, with Go's defaults (15
	// s, 15 s, 9 probes). Enable false with a negative Idle turns it off.
	KeepAlive net.KeepAliveConfig

	// TCPUserTimeout is how long sent data may stay unacknowledged before the
	// connection is given up. 0: the kernel's default, about 15 minutes. It works on
	// Linux only, and is ignored elsewhere, as in libpq.
	TCPUserTimeout time.Duration

	// CancelTimeout is how long a cancelled statement may take to end, and the server to
	// close the connection that carried the request, before the session is closed. A
	// statement does not return before both, because a later one could still be hit: a
	// pooler that closes that connection late, such as pgpool-II after 1 s, makes each
	// cancellation last as long. 0: 5 s.
	CancelTimeout time.Duration

	// StatementCacheSize is how many prepared statements a session keeps for queries
	// with arguments, which then need one round trip instead of two. The least recently
	// used one makes room. 0: 256; negative: none, as behind a pooler in transaction mode
	// that does not support prepared statements: there the server would refuse kept ones
	// in transactions (26000), but never run another client's. With binary_parameters
	// none are kept.
	StatementCacheSize int

	// BeforeConnect is called before each host is tried, in each pass over the list. It
	// gets a copy of the Config in which Host, Hostaddr and Port are those of this host
	// and Multi is empty; the copy also serves for all addresses of the host's name and
	// for the fallbacks of sslmode. It may change the copy, for example to set a fresh
	// password; changes to the fields from KeepAlive on, and to TargetSessionAttrs and
	// LoadBalanceHosts, are ignored. It has a connect_timeout of its own. Its error
	// ends Connect.
	BeforeConnect func(ctx context.Context, config *Config) error

	// OnConnect is called with each new session before the pool gets it. If it returns
	// an error, or leaves a transaction open, the session is closed and Connect fails.
	OnConnect func(ctx context.Context, conn *Conn) error

	// OnNotice is called with each notice of each session, including those of the
	// start-up, before the handlers of [NoticeConn] and under the same rules.
	OnNotice func(conn *Conn, notice *Notice)

	// OnNotification is called with each notification of each session, before the
	// handlers of [NotificationConn] and under the same rules.
	OnNotification func(conn *Conn, notification Notification)

	// OnDisconnect is called once for each session that the pool got, when it has
	// ended, with the reason: [ClosedLocally] if the pool or the program closed it. It
	// runs on a goroutine of its own. conn still reports its PID, but must not be used
	// for requests. On Linux, macOS and the BSDs, and over a connection of DialContext
	// that is no socket, it is called at once, even for idle sessions; elsewhere, when
	// the session is next used, unless it listens or waits.
	OnDisconnect func(conn *Conn, err *DisconnectError)

	// Logger records what cannot be returned to a caller: panics in handlers, dropped
	// notices and notifications. It gets no secrets and no statements. nil:
	// [slog.Default].
	Logger *slog.Logger

	nameless bool // application_name='': the program's name is not its default
}

// defaultCancelTimeout is the default of Config.CancelTimeout.
const defaultCancelTimeout = 5 * time.Second

func (c *Config) cancelTimeout() time.Duration {
	if c.CancelTimeout > 0 {
		return c.CancelTimeout
	}
	return defaultCancelTimeout
}

// Clone returns a copy that can be changed without affecting c. Functions are shared.
func (c *Config) Clone() *Config {
	clone := *c
	clone.Config = c.Config.Clone()
	clone.Multi = slices.Clone(c.Multi)
	clone.Runtime = maps.Clone(c.Runtime)
	clone.TLSConfig = c.TLSConfig.Clone()
	return &clone
}

// String returns the first server, the user and the database, and nothing secret.
func (c Config) String() string {
	return fmt.Sprintf("%s user=%s dbname=%s", transport.Endpoints(&c.Config)[0], c.User, c.Database)
}

// GoString returns String, so that %#v does not show the password either.
func (c Config) GoString() string { return c.String() }

// LogValue implements [slog.LogValuer] with String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// A Connector opens sessions with one Config, for [sql.OpenDB]. It is immutable and
// safe for concurrent use.
type Connector struct {
	config *Config
	policy *transport.Policy
	dialer *transport.Dialer

	// meanings counts the changes by which statements kept in other sessions may have
	// got another meaning. Sessions compare it with what they have seen.
	meanings *atomic.Uint32
}

// NewConnector returns a connector for a copy of config. It reports settings that are
// invalid or contradict each other, and connects to nothing.
func NewConnector(config *Config) (*Connector, error) {
	if config == nil {
		return nil, fmt.Errorf("pgnotify: NewConnector: the Config is nil; ParseConfig makes one")
	}
	c := &Connector{config: config.Clone(), meanings: new(atomic.Uint32)}
	c.config.setDefaults()
	if err := c.config.check(); err != nil {
		return nil, err
	}
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
		Left:           new(atomic.Int32),
	}
	return c, nil
}

// Connect opens a session, within connect_timeout for each address and ctx for all of
// them. It implements [driver.Connector]; the session is a *[Conn].
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.onConnect(ctx); err != nil {
		return nil, &opError{"OnConnect", err}
	}
	s.used.Store(false)
	s.tellLoss(true)
	return &s.self, nil
}

// onConnect calls OnConnect, and closes the session if OnConnect fails or panics.
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
	if err = f(ctx, &s.self); err == nil && s.wire.Status() != 'I' {
		err = errors.New("it has left a transaction open")
	}
	good = err == nil
	return err
}

// String returns the Config's String, which holds nothing secret.
func (c Connector) String() string { return c.config.String() }

// GoString returns String.
func (c Connector) GoString() string { return c.String() }

// Driver implements [driver.Connector].
func (c *Connector) Driver() driver.Driver { return &Driver{} }
