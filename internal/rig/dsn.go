package rig

import (
	"fmt"
	"os"
	"strings"

	"github.com/lib/pq"
)

// GivenDSN returns what PGNOTIFY_TEST_DSN says, or "". It may be a URL and comes as
// keyword=value pairs, so that tests can add pairs; of two for one parameter the last one
// counts.
func GivenDSN() (string, error) {
	dsn := os.Getenv(dsnVariable)
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn, nil
	}
	//lint:ignore SA1019 it is deprecated for programs that only want to connect
	pairs, err := pq.ParseURL(dsn)
	if err != nil { // which would quote the URL, with its password
		return "", fmt.Errorf("%s is not a valid URL", dsnVariable)
	}
	return pairs, nil
}
