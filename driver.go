package pgnotify

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// DriverName is the name under which the driver is registered with database/sql.
const DriverName = "pgnotify"

func init() { sql.Register(DriverName, &Driver{}) }

// Driver is the [driver.Driver] registered as "pgnotify". The zero value is ready to
// use, and safe for concurrent use.
type Driver struct{}

// Open opens a session without a context. database/sql calls OpenConnector instead.
func (d *Driver) Open(dsn string) (driver.Conn, error) {
	c, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background())
}

// OpenConnector implements [driver.DriverContext]. It parses the DSN as [ParseConfig]
// does, once for the whole pool.
func (d *Driver) OpenConnector(dsn string) (driver.Connector, error) {
	config, err := ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return NewConnector(config)
}

var (
	_ driver.Driver        = (*Driver)(nil)
	_ driver.DriverContext = (*Driver)(nil)
	_ driver.Connector     = (*Connector)(nil)

	_ driver.Conn               = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
	_ driver.NamedValueChecker  = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.SessionResetter    = (*Conn)(nil)
	_ driver.Validator          = (*Conn)(nil)

	_ NoticeConn       = (*Conn)(nil)
	_ NotificationConn = (*Conn)(nil)
	_ CancelConn       = (*Conn)(nil)
	_ SessionConn      = (*Conn)(nil)
	_ DisconnectConn   = (*Conn)(nil)
)
