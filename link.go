package pgnotify

import (
	"database/sql/driver"
	"sync/atomic"
	"time"
)

// A link is a session of a Listener. The Listener's goroutine makes its requests; the
// session's own reader delivers its notifications.
type link struct {
	driverConn driver.Conn // from the connector, with its wrappers; owned
	conn       *Conn
	since      time.Time
	listened   bool         // it has listened to all that was wanted at least once
	backend    int64        // the last pg_backend_pid(); 0 before
	heard      atomic.Int64 // when something last arrived, as now()

	// The Listener's lock guards the fields below.
	certain time.Time     // when the last answered request was sent: what was sent before has arrived
	probe   string        // the channel of the delivery probe
	arrived chan struct{} // closed when something has arrived on it
}

func (k *link) host() string          { return k.conn.s.link.Route.String() }
func (k *link) pid() uint32           { return k.conn.PID() }
func (k *link) lost() <-chan struct{} { return k.conn.s.wire.Lost() }
func (k *link) listens() uint32       { return k.conn.s.wire.Listens() }

// hear notes that something has arrived.
func (k *link) hear() { k.heard.Store(int64(now())) }

func (k *link) lastHeard() time.Time { return processStart.Add(time.Duration(k.heard.Load())) }

// why returns why the session was lost or, if it was not, the err with which it was
// given up.
func (k *link) why(err error) error {
	k.conn.s.wire.CheckFatal()
	if lost := k.conn.s.disconnectError(); lost != nil {
		return lost
	}
	return err
}

// close ends the session, and waits for its reader.
func (k *link) close() { _ = k.driverConn.Close() }
