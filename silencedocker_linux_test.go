package pgnotify_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// An ownContainer is a server in a container of the test's own.
type ownContainer struct {
	*pgserver.Server
	daemon  *docker.Client
	address string // its own
	direct  string // the DSN of that
}

func startOwnContainer(t *testing.T) *ownContainer {
	t.Helper()
	if s := ours(t); s.Source() != pgserver.Docker {
		t.Skip("needs PGNOTIFY_TEST_SERVER=docker")
	}
	pool, err := dockertest.NewPool("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := pgserver.Start(ctx, pgserver.Options{
		Sources: []pgserver.Source{pgserver.Docker},
		Image:   os.Getenv("PGNOTIFY_TEST_IMAGE"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	info, err := pool.Client.InspectContainerWithContext(s.Container(), ctx)
	if err != nil {
		t.Fatal(err)
	}
	address := info.NetworkSettings.Networks["bridge"].IPAddress // that of all of them is no longer told by Docker 29
	if address == "" || s.SocketDir() == "" {
		const why = "the daemon's network and folders are not this machine's"
		if os.Getenv("CI") == "true" && os.Getenv("DOCKER_HOST") == "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	c := &ownContainer{Server: s, daemon: pool.Client, address: address}
	c.direct = c.at(address)
	return c
}

// marks returns a table that is reached over the unix socket, and so without a
// network.
func (c *ownContainer) marks(t *testing.T) *marks {
	t.Helper()
	m := &marks{server: open(t, c.DSN()+" host="+c.SocketDir()), table: uniqueName("marks")}
	mustExec(t, m.server, "create table "+m.table+" (mark text)")
	return m
}

// join connects the container to a network of the test's own, where nobody is
// given its address when it has left. It returns a DSN for that.
func (c *ownContainer) join(t *testing.T) (dsn string, leave func()) {
	t.Helper()
	name := uniqueName("pgnotify")
	network, err := c.daemon.CreateNetwork(docker.CreateNetworkOptions{Name: name, Driver: "bridge", Internal: true})
	if err != nil {
		t.Fatal(err)
	}
	membership := docker.NetworkConnectionOptions{Container: c.Container()}
	t.Cleanup(func() {
		_ = c.daemon.DisconnectNetwork(network.ID, membership) // it has left, unless the test failed
		if err := c.daemon.RemoveNetwork(network.ID); err != nil {
			t.Error(err)
		}
	})
	if err := c.daemon.ConnectNetwork(network.ID, membership); err != nil {
		t.Fatal(err)
	}
	info, err := c.daemon.InspectContainer(c.Container())
	if err != nil {
		t.Fatal(err)
	}
	return c.at(info.NetworkSettings.Networks[name].IPAddress), func() {
		if err := c.daemon.DisconnectNetwork(network.ID, membership); err != nil {
			t.Fatal(err)
		}
	}
}

// at returns the DSN for an address of the container: not of Docker's proxy, which
// would go on to answer.
func (c *ownContainer) at(address string) string {
	return c.DSN() + " host=" + address + " hostaddr=" + address
}

// D10: a container is taken from its network. Nobody answers for its address, and
// the system may say so (EHOSTUNREACH) instead of waiting.
func TestContainerWithoutNetwork(t *testing.T) {
	t.Parallel()
	c := startOwnContainer(t)
	crowd := newCrowd(c.marks(t))
	dsn, leave := c.join(t)
	crowd.add(t, patience(t), "tcp", open(t, dsn+keepalives+userTimeout), all)
	told, began := make(chan lossTold, len(crowd.waits)), time.Now()
	leave()
	crowd.start(t, told, all)
	crowd.collect(t, told, began, wantSilence)
}

// D10: the processes of a paused container stand still, but the system goes on to
// acknowledge what is sent to it and to answer keepalives. So an idle session is
// not lost, and can be used when the container goes on; a statement ends by its
// context and CancelTimeout, or by tcp_user_timeout when the container's socket
// can take no more of it.
func TestPausedContainer(t *testing.T) {
	t.Parallel()
	c := startOwnContainer(t)
	crowd := newCrowd(c.marks(t))
	ctx, cancel := context.WithCancel(patience(t))
	defer cancel()
	db := open(t, c.direct+keepalives+userTimeout+" cancel_timeout=1")
	idle := take(t, db)
	crowd.add(t, ctx, "tcp", db, func(m moment) bool { return !m.idle })
	told, began := make(chan lossTold, len(crowd.waits)), time.Now()
	c.pause(t)
	crowd.start(t, told, func(m moment) bool { return m.large })
	large := []lossTold{recv(t, told), recv(t, told)} // passive and active
	crowd.start(t, told, func(m moment) bool { return !m.large })
	select {
	case <-idle.pc.Disconnected():
		t.Errorf("the idle session: %v", idle.pc.DisconnectErr())
	case <-time.After(5*time.Second - time.Since(began)): // longer than silence would take to be seen
	}
	if len(told) > 0 {
		t.Errorf("%d statements that are acknowledged have ended", len(told))
	}
	canceled := time.Now()
	cancel()
	for range len(crowd.waits) - len(large) {
		e := recv(t, told)
		crowd.wantCanceled(t, e)
		t.Logf("| paused, cancel_timeout=1 | %s | %.1f s |", e.name, e.at.Sub(canceled).Seconds())
	}
	for _, e := range large {
		wantSilence(t, e)
		t.Logf("| paused, tcp_user_timeout | %s | %.1f s |", e.name, e.at.Sub(began).Seconds())
	}
	c.unpause(t)
	mustExec(t, idle, "select 1")
	crowd.works(t)
}

func (c *ownContainer) pause(t *testing.T) {
	t.Helper()
	if err := c.daemon.PauseContainer(c.Container()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.unpause(t) })
}

// unpause does nothing the second time.
func (c *ownContainer) unpause(t *testing.T) {
	t.Helper()
	info, err := c.daemon.InspectContainer(c.Container())
	if err == nil && info.State.Paused {
		err = c.daemon.UnpauseContainer(c.Container())
	}
	if err != nil {
		t.Error(err)
	}
}
