package pgnotify_test

import (
	"net"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// names answers the look-ups of the tests.
var names = pgfake.NewNames(nil)

func init() { net.DefaultResolver = names.Resolver() }
