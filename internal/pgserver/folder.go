package pgserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// maxSocketDir is the longest folder that works for a unix socket: sun_path has
// 104 bytes on BSD and macOS (108 on Linux), with the final zero, and the
// socket's own name takes up to 16.
const maxSocketDir = 104 - 1 - len("/.s.PGSQL.65535")

// folderBases are where private folders may be made, the best first.
func folderBases() []string {
	bases := []string{os.TempDir()}
	for _, base := range []string{"/tmp", "/var/tmp"} {
		if info, err := os.Stat(base); err == nil && info.IsDir() && !slices.Contains(bases, base) {
			bases = append(bases, base)
		}
	}
	return bases
}

// A folder is private: only its owner can enter it. Should this program end
// without remove, its janitor removes it.
type folder struct {
	path    string
	janitor *janitor
}

// newFolder makes a folder, owned by a, in the first of the bases for which
// usable reports no error. The janitor removes the container as well, if any.
func newFolder(bases []string, a *account, container string, usable func(path string) error) (*folder, error) {
	var errs []error
	for _, base := range bases {
		f, err := newFolderIn(base, container)
		if err == nil {
			err = errors.Join(a.own(f.path), usable(f.path))
		}
		if err == nil {
			return f, nil
		}
		errs = append(errs, err, f.remove())
	}
	return nil, errors.Join(errs...)
}

func newFolderIn(base, container string) (*folder, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(base, "pgnotify-") // 0700
	if err != nil {
		return nil, err
	}
	f := &folder{path: path}
	if len(path) > maxSocketDir {
		return f, fmt.Errorf("%s: too long for a unix socket", path)
	}
	f.janitor, err = hireJanitor(path, container)
	return f, err
}

// remove removes the folder with all that is in it. Nil is no folder.
func (f *folder) remove() error {
	if f == nil {
		return nil
	}
	return errors.Join(os.RemoveAll(f.path), f.janitor.dismiss())
}
