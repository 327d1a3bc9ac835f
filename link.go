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
	heard      atomic.Int64 // when something last arrived, as now()

	// Whether notifications come, for the Listener's goroutine.
	backend uint32           // the process that serves it, as told last; 0 before
	hearing uint32           // the process whose notifications are known to come
	suspect bool             // it is to be probed, whatever process it has
	astray  bool             // another process has made a LISTEN; a heartbeat will see to that
	failed  int              // probes in a row that have told nothing
	waited  time.Duration    // of the time that a probe has, what those before it have used
	again   <-chan time.Time // when to probe again; nil if not

	// The Listener's lock guards the fields below; only its goroutine sets the last two.
	certain time.Time // when the last answered request was sent: what was sent before has arrived
	trial   *trial    // the probe under way
	settled bool      // it is known, or cannot be known for now, whether notifications come
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
