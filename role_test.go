package pgnotify_test

import (
	"fmt"
	"os"
)

// roleVariable makes the test binary play another part than that of the tests,
// in a process of its own.
const roleVariable = "PGNOTIFY_TEST_ROLE"

// roles are those parts. Each returns an exit status.
var roles = map[string]func() int{}

func playRole(name string) int {
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown role %q\n", name)
		return 2
	}
	return role()
}
