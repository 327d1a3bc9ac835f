// Package compat compares drivers.
package compat

import (
	"log"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/pgserver"
	"github.com/pgnotify/pgnotify/internal/rig"
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
	for _, check := range []func() error{rig.Lack, leaks} {
		if err := check(); err != nil {
			log.Print(err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks finds goroutines, but for the one that OpenCensus starts when it is loaded.
func leaks() error {
	return goleak.Find(goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
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
	theServer.once.Do(func() { theServer.Server, theServer.err = rig.StartServer(nil) })
	if theServer.err != nil {
		rig.WithoutServer(t, theServer.err)
	}
	return theServer.Server
}
