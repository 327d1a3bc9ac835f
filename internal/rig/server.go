package rig

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// The variables that choose the server; CONTRIBUTING.md explains them.
const (
	sourceVariable  = "PGNOTIFY_TEST_SERVER"
	versionVariable = "PGNOTIFY_TEST_VERSION"
	imageVariable   = "PGNOTIFY_TEST_IMAGE"
	dsnVariable     = "PGNOTIFY_TEST_DSN"
)

// startWait bounds how long the server may take to come, with a download.
const startWait = 5 * time.Minute

// StartServer starts a throwaway server for tests, as the variables say, with the
// settings in config. The caller must close it.
func StartServer(config map[string]string) (*pgserver.Server, error) {
	opts := pgserver.Options{Image: os.Getenv(imageVariable), Config: config, Logf: log.Printf}
	switch choice := os.Getenv(sourceVariable); choice {
	case "":
		opts.Sources = []pgserver.Source{pgserver.Docker, pgserver.Installed, pgserver.Download}
	case "docker":
		opts.Sources = []pgserver.Source{pgserver.Docker}
	case "local":
		opts.Sources = []pgserver.Source{pgserver.Installed, pgserver.Download}
	case "none":
		return nil, fmt.Errorf("%s=none", sourceVariable)
	default:
		return nil, fmt.Errorf("%s=%q is none of docker, local and none", sourceVariable, choice)
	}
	if version := os.Getenv(versionVariable); version != "" {
		var err error
		if opts.Version, err = strconv.Atoi(version); err != nil {
			return nil, fmt.Errorf("%s=%q is not a major version", versionVariable, version)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	return pgserver.Start(ctx, opts)
}

// lack is why tests were skipped, or nil.
var lack atomic.Pointer[error]

// WithoutServer ends a test that has no server, because of err. It skips the test, which
// Lack tells of, or fails it in CI and where a server was asked for.
func WithoutServer(t testing.TB, err error) {
	t.Helper()
	asked := os.Getenv(sourceVariable) + os.Getenv(dsnVariable)
	if asked != "none" && (asked != "" || os.Getenv("CI") != "") {
		t.Fatalf("no PostgreSQL for the tests: %v", err)
	}
	lack.Store(&err)
	t.Skip("no PostgreSQL for the tests")
}

// Lack returns an error if tests were skipped for want of a server and nobody said that
// this is meant: go test prints nothing of skipped tests, so a run in which most were
// skipped would look like one in which they passed.
func Lack() error {
	err := lack.Load()
	if err == nil || os.Getenv(sourceVariable) == "none" {
		return nil
	}
	return fmt.Errorf("the tests that need PostgreSQL were skipped; %s=none says that this is meant: %w", sourceVariable, *err)
}
