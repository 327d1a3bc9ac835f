package pgserver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

func TestNewFolderTriesTheNextBase(t *testing.T) {
	t.Parallel()
	unusable, good := t.TempDir(), t.TempDir()
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	bases := []string{filepath.Join(good, "missing"), long, unusable, good}
	dir, remove, err := pgserver.NewFolder(bases, func(dir string) error {
		if filepath.Dir(dir) == unusable {
			return errors.New("not usable")
		}
		return nil
	})
	if err != nil || filepath.Dir(dir) != good {
		t.Fatalf("got %q, %v, want a folder in %q", dir, err, good)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{long, unusable, good} {
		if left, _ := os.ReadDir(base); len(left) > 0 {
			t.Errorf("%s was left in %s", left[0].Name(), base)
		}
	}
}
