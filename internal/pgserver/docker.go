package pgserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ory/dockertest/v3"
	dc "github.com/ory/dockertest/v3/docker"
)

const (
	defaultImage = "postgres:" + defaultMajor

	// expiryLabel marks our containers. Its value is their expiry time, in seconds
	// since 1970.
	expiryLabel = "com.github.pgnotify.pgserver.expires"

	// dockerLife is how long a container lives at most after its last start, so that a
	// container whose program was killed does not stay.
	dockerLife = time.Hour

	// dockerWait bounds each request that does not pull, start or stop.
	dockerWait = 10 * time.Second

	// socketMount is where the container sees the folder for the Unix socket. It is not
	// the image's own /var/run/postgresql, whose ownership the image changes.
	socketMount = "/pgnotify"
)

func startDocker(ctx context.Context, opts Options) (*Server, error) {
	client, err := dialDocker(ctx)
	if err != nil {
		return nil, err
	}
	c := &container{
		client:   client,
		image:    opts.image(),
		name:     "pgnotify-" + strings.ToLower(rand.Text()),
		password: rand.Text(),
		config:   maps.Clone(opts.Config),
	}
	return c.serve(ctx)
}

// image returns the image to run.
func (o Options) image() string {
	if o.Image == "" && o.Version != 0 {
		return fmt.Sprintf("postgres:%d", o.Version)
	}
	return cmp.Or(o.Image, defaultImage)
}

func (c *container) serve(ctx context.Context) (*Server, error) {
	if err := c.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.image, err), c.remove())
	}
	return &Server{
		source: Docker, dsn: c.dsn(), host: loopback, port: c.port, socketDir: c.reachableSocket(ctx),
		container: c.id, origin: "Docker image " + c.image, version: c.version, backend: c,
	}, nil
}

// dialDocker returns a client of a daemon that has answered.
func dialDocker(ctx context.Context) (*dc.Client, error) {
	pool, err := dockertest.NewPool("")
	if err != nil {
		return nil, err
	}
	client := pool.Client
	if !onThisMachine(client.Endpoint()) {
		return nil, fmt.Errorf("the daemon at %s is on another machine, whose loopback cannot be reached", client.Endpoint())
	}
	ctx, cancel := context.WithTimeout(ctx, dockerWait)
	defer cancel()
	if err := client.PingWithContext(ctx); err != nil {
		return nil, fmt.Errorf("no daemon answers at %s (DOCKER_HOST says where else): %w", client.Endpoint(), err)
	}
	return client, nil
}

// onThisMachine reports whether ports that the daemon at endpoint publishes on
// its loopback are likely to be ours.
func onThisMachine(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	return slices.Contains([]string{"", "localhost", loopback, "::1"}, u.Hostname()) || u.Scheme == "npipe"
}

// A container is a server in a container of the official image.
type container struct {
	client   *dc.Client
	image    string
	name     string // of the container, and the server's cluster_name
	id       string // "" before it is created
	password string
	config   map[string]string
	primary  *container // that it follows, or nil
	folder   *folder    // holds the folder of the socket
	port     int        // the same inside and outside
	version  string
	expired  chan struct{} // closed once the request from expire has returned
}

var _ backend = (*container)(nil)

// startOnFreePort makes everything that is needed and starts the server for the first
// time.
func (c *container) startOnFreePort(ctx context.Context) error {
	c.sweep(ctx)
	if err := c.ensureImage(ctx); err != nil {
		return err
	}
	if err := c.prepareHost(); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := c.create(ctx)
		if err == nil {
			err = c.start(ctx)
		}
		if err == nil || try == startTries || !portTaken(err) {
			return err
		}
		if err := c.discard(); err != nil {
			return err
		}
	}
}

func portTaken(err error) bool {
	return strings.Contains(err.Error(), "port is already allocated") ||
		strings.Contains(err.Error(), "address already in use")
}

// sweep removes our expired containers, which their programs did not remove. Whatever
// it cannot remove is left to the next sweep.
func (c *container) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dockerWait)
	defer cancel()
	old, _ := c.client.ListContainers(dc.ListContainersOptions{
		Filters: map[string][]string{"label": {expiryLabel}, "status": {"exited"}},
		Context: ctx,
	})
	for _, o := range old {
		expires, err := strconv.ParseInt(o.Labels[expiryLabel], 10, 64)
		if err == nil && time.Now().Unix() > expires {
			_ = c.client.RemoveContainer(dc.RemoveContainerOptions{ID: o.ID, RemoveVolumes: true, Context: ctx})
		}
	}
}

// ensureImage pulls the image unless it is there.
func (c *container) ensureImage(ctx context.Context) error {
	if _, err := c.client.InspectImage(c.image); err == nil {
		return nil
	}
	repository, tag := dc.ParseRepositoryTag(c.image)
	err := c.client.PullImage(dc.PullImageOptions{
		Repository:        repository,
		Tag:               cmp.Or(tag, "latest"),
		InactivityTimeout: time.Minute,
		Context:           ctx,
	}, dc.AuthConfiguration{})
	if err != nil {
		return fmt.Errorf("the image is not here and cannot be pulled: %w", err)
	}
	return nil
}

// prepareHost makes the folder for the Unix socket. The user that runs the server
// inside the container may write there, but nobody else on this machine can reach it.
func (c *container) prepareHost() (err error) {
	c.folder, err = newFolder(folderBases(), nil, c.name, func(path string) error {
		socket := filepath.Join(path, "socket")
		return errors.Join(os.Mkdir(socket, 0o777), os.Chmod(socket, 0o777)) // despite the umask
	})
	return err
}

// sharesSockets reports whether the daemon is likely to share the folder, and
// sockets in it, with the container.
func (c *container) sharesSockets() bool {
	return runtime.GOOS == "linux" && strings.HasPrefix(c.client.Endpoint(), "unix://")
}

// create creates the container, on a port that is free at the moment. ctx does not
// interrupt it: the daemon would go on, and the container would be overlooked.
func (c *container) create(ctx context.Context) (err error) {
	if c.port, err = freePort(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startWait)
	defer cancel()
	port := strconv.Itoa(c.port)
	host := &dc.HostConfig{
		PortBindings: map[dc.Port][]dc.PortBinding{dc.Port(port + "/tcp"): {{HostIP: loopback, HostPort: port}}},
	}
	if c.sharesSockets() {
		host.Binds = []string{c.socketDir() + ":" + socketMount + ":Z"} // Z: ours alone, for SELinux
	}
	command, user := c.command(port), ""
	if c.primary != nil {
		host.Binds = append(host.Binds, c.primary.socketDir()+":"+primaryMount)
		command, user = c.primary.copyFirst(command), "postgres"
	}
	created, err := c.client.CreateContainer(dc.CreateContainerOptions{
		Name:       c.name,
		HostConfig: host,
		Context:    ctx,
		Config: &dc.Config{
			Image:        c.image,
			Cmd:          command,
			User:         user,
			Env:          []string{"POSTGRES_USER=postgres", "POSTGRES_DB=postgres", "POSTGRES_PASSWORD=" + c.password, "PGPORT=" + port},
			ExposedPorts: map[dc.Port]struct{}{dc.Port(port + "/tcp"): {}},
			Labels:       map[string]string{expiryLabel: strconv.FormatInt(time.Now().Add(dockerLife).Unix(), 10)},
			StopSignal:   "SIGWINCH", // ignored by postgres, see expire
		},
	})
	if err != nil {
		return err
	}
	c.id = created.ID
	return nil
}

func (c *container) command(port string) []string {
	settings := throwaway(c.config, c.name)
	settings["port"] = port
	if c.sharesSockets() {
		settings["unix_socket_directories"] = "/var/run/postgresql," + socketMount
	}
	cmd := []string{"postgres"}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		cmd = append(cmd, "-c", name+"="+settings[name])
	}
	return cmd
}

func (c *container) start(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.startContainer(ctx); err != nil {
		return err
	}
	// The image starts a server for its set-up first, but not on TCP.
	c.version, err = awaitAnswer(ctx, c.dsn(), c.name, func() error { return c.ended(ctx) })
	if err != nil {
		return fmt.Errorf("%w%s", err, c.logTail())
	}
	return nil
}

// startContainer is not interrupted by ctx, for the same reason as create.
func (c *container) startContainer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startWait)
	defer cancel()
	if err := c.client.StartContainerWithContext(c.id, nil, ctx); err != nil {
		return err
	}
	c.expire()
	return nil
}

// expire asks the daemon, which outlives this program, to kill the container after
// dockerLife: to stop it with a signal that has no effect, and to wait that long.
func (c *container) expire() {
	expired := make(chan struct{})
	c.expired = expired
	go func() { // owned by c, ends with the container, joined by stop or discard
		defer close(expired)
		_ = c.client.StopContainer(c.id, uint(dockerLife/time.Second))
	}()
}

// ended reports an error once the container does not run.
func (c *container) ended(ctx context.Context) error {
	state, err := c.client.InspectContainerWithContext(c.id, ctx)
	if err == nil && !state.State.Running {
		err = fmt.Errorf("the container ended with status %d", state.State.ExitCode)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *container) stop(ctx context.Context, mode StopMode) error {
	signal := dc.SIGINT
	if mode == Immediate {
		signal = dc.SIGQUIT
	}
	err := c.client.KillContainer(dc.KillContainerOptions{ID: c.id, Signal: signal, Context: ctx})
	if stopped := (*dc.ContainerNotRunning)(nil); err != nil && !errors.As(err, &stopped) {
		return err
	}
	if _, err := c.client.WaitContainerWithContext(c.id, ctx); err != nil {
		return err
	}
	<-c.expired
	return nil
}

func (c *container) remove() error {
	return errors.Join(c.discard(), c.folder.remove())
}

// discard ends and removes the container and its volume.
func (c *container) discard() error {
	if c.id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*dockerWait)
	defer cancel()
	c.endGently(ctx)
	err := c.client.RemoveContainer(dc.RemoveContainerOptions{ID: c.id, Force: true, RemoveVolumes: true, Context: ctx})
	if gone := (*dc.NoSuchContainer)(nil); err != nil && !errors.As(err, &gone) {
		return err
	}
	c.id = ""
	if c.expired != nil {
		<-c.expired
	}
	return nil
}

// endGently gives the server time to say goodbye to its clients. If that is not enough,
// the server is killed next.
func (c *container) endGently(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dockerWait)
	defer cancel()
	if c.expired != nil { // it was started
		_ = c.stop(ctx, Fast)
	}
}

func (c *container) pid() int { return 0 }

func (c *container) dsn() string { return ourDSN(c.port, c.password, c.config) }

func (c *container) socketDir() string { return filepath.Join(c.folder.path, "socket") }

// reachableSocket returns the folder of the unix socket if it works: the daemon
// may be in a virtual machine.
func (c *container) reachableSocket(ctx context.Context) string {
	if !c.sharesSockets() {
		return ""
	}
	dsn := fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres password=%s sslmode=disable", c.socketDir(), c.port, c.password)
	if _, name, err := askBriefly(ctx, dsn); err != nil || name != c.name {
		return ""
	}
	return c.socketDir()
}

// logTail returns the last lines of the container's log, for an error.
func (c *container) logTail() string {
	ctx, cancel := context.WithTimeout(context.Background(), dockerWait)
	defer cancel()
	var log bytes.Buffer
	err := c.client.Logs(dc.LogsOptions{
		Container: c.id, OutputStream: &log, ErrorStream: &log,
		Tail: "10", Stdout: true, Stderr: true, Context: ctx,
	})
	if err != nil {
		return ""
	}
	return lastLines(log.Bytes())
}
