// Package compat compares drivers.
package compat

import (
	"context"
	"log"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// TestMain fails when goroutines are left behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if theServer.Server != nil {
		if err := theServer.Close(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}

// theServer is started by the first test that asks for it.
var theServer struct {
	once sync.Once
	*pgserver.Server
	err error
}

// server returns a throwaway PostgreSQL, and skips the test where there is none
// and none was asked for.
func server(t testing.TB) *pgserver.Server {
	t.Helper()
	choice := os.Getenv("PGNOTIFY_TEST_SERVER")
	theServer.once.Do(func() { theServer.Server, theServer.err = startServer(choice) })
	if theServer.err != nil && os.Getenv("CI") == "" && choice == "" {
		t.Skipf("no PostgreSQL for the tests: %v", theServer.err)
	}
	if theServer.err != nil {
		t.Fatalf("no PostgreSQL for the tests: %v", theServer.err)
	}
	return theServer.Server
}

func startServer(choice string) (*pgserver.Server, error) {
	sources := []pgserver.Source{pgserver.Docker, pgserver.Installed, pgserver.Download}
	switch choice {
	case "docker":
		sources = sources[:1]
	case "local":
		sources = sources[1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	return pgserver.Start(ctx, pgserver.Options{
		Sources: sources, Image: os.Getenv("PGNOTIFY_TEST_IMAGE"), Logf: log.Printf,
	})
}
