package transport_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// TestMain fails if a goroutine is left. It answers the look-ups of the tests,
// and keeps the certificates of whoever runs them out.
func TestMain(m *testing.M) {
	absent := filepath.Join(os.TempDir(), "pgnotify-no-home")
	os.Setenv("HOME", absent)
	os.Setenv("APPDATA", absent)
	net.DefaultResolver = names.Resolver()
	goleak.VerifyTestMain(m)
}

// names answers the look-ups.
var names = pgfake.NewNames(map[string][]string{
	"one.test":  {"127.0.0.1"},
	"many.test": {"127.0.0.1", "127.0.0.2", "127.0.0.1", "::1"},
})
