package pgnotify_test

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// L1 under load: the processes of a paused container stand still, while the system goes
// on to acknowledge what it is sent, and to accept connections. The heartbeat and
// connect_timeout find out, and what is missing when the container goes on lies in a gap.
func TestListenerOfAPausedContainer(t *testing.T) {
	t.Parallel()
	c := startOwnContainer(t)
	r := newLoadRig(t, c.direct, connector(t, c.direct, within(time.Second)))
	r.untilMore(t)
	began := time.Now()
	c.pause(t)
	wantLostFor(t, r.events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.NetworkTimeout)
	t.Logf("noticed after %v", time.Since(began))
	r.events.await(t, pgnotify.ListenerReconnecting, 3)
	if health, err := r.l.Ping(testContext(t)); err == nil {
		t.Errorf("healthy: %+v", health)
	}
	c.unpause(t)
	r.events.await(t, pgnotify.ListenerConnected, 2)
	r.untilMore(t)
	r.audit(t)
}

// L1 under load: a container is taken from its network, and nobody is told. What is sent
// meanwhile, from elsewhere, lies in a gap.
func TestListenerOfAContainerWithoutNetwork(t *testing.T) {
	t.Parallel()
	c := startOwnContainer(t)
	joined, leave := c.join(t)
	var elsewhere atomic.Bool
	r := newLoadRig(t, c.DSN()+" host="+c.SocketDir(), connector(t, joined, within(time.Second), func(config *pgnotify.Config) {
		config.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if elsewhere.Load() {
				address = net.JoinHostPort(c.address, strconv.Itoa(c.Port()))
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}))
	r.untilMore(t)
	began := time.Now()
	leave()
	wantLostFor(t, r.events.await(t, pgnotify.ListenerDisconnected, 1).Err, pgnotify.NetworkTimeout)
	t.Logf("noticed after %v", time.Since(began))
	r.events.await(t, pgnotify.ListenerReconnecting, 3)
	elsewhere.Store(true)
	r.events.await(t, pgnotify.ListenerConnected, 2)
	r.untilMore(t)
	if found := r.audit(t); found.missing == 0 {
		t.Error("nothing is missing")
	}
}
