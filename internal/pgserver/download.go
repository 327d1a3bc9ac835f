package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// defaultMajor is the major version that is run where there is a choice.
const defaultMajor = "17"

// A fetcher fills the folder dir with the programs of a major version, and names where
// it got them from in its error. What it leaves in dir when it fails is removed.
type fetcher func(ctx context.Context, dir, major string) error

// fetchers are tried in this order. Tests change them.
var fetchers = []fetcher{fetchMaven, fetchNPM}

// startDownload fetches the binaries and then runs them as if they were installed.
func startDownload(ctx context.Context, opts Options) (*Server, error) {
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	cache, err := downloadCache(account)
	if err != nil {
		return nil, err
	}
	major := defaultMajor
	if opts.Version != 0 {
		major = strconv.Itoa(opts.Version)
	}
	home := filepath.Join(cache, "postgres-"+major)
	if !hasServer(filepath.Join(home, "bin")) {
		if err := fetch(ctx, home, major, account); err != nil {
			return nil, err
		}
	}
	return startCluster(ctx, Download, filepath.Join(home, "bin"), opts)
}

// rootCache is where binaries are kept that root has downloaded: the account that runs
// them can read it, and nobody else can write there.
var rootCache = "/var/cache/pgnotify"

// downloadCache returns the folder for the binaries that a runs.
func downloadCache(a *account) (string, error) {
	if a != nil {
		return rootCache, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "pgnotify"), err
}

// fetch fills home by the first fetcher that can, in a folder next to it, which becomes
// home at the end.
func fetch(ctx context.Context, home, major string, a *account) error {
	parent := filepath.Dir(home)
	err := os.MkdirAll(parent, 0o755)
	if err == nil && a != nil {
		err = os.Chmod(parent, 0o755) // whatever the umask says
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, fetcher := range fetchers {
		err := fetchBy(ctx, fetcher, home, major, a)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func fetchBy(ctx context.Context, fetcher fetcher, home, major string, a *account) error {
	dir, err := os.MkdirTemp(filepath.Dir(home), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := fetcher(ctx, dir, major); err != nil {
		return err
	}
	if a != nil {
		if err := letRead(dir); err != nil {
			return err
		}
	}
	if !hasServer(filepath.Join(dir, "bin")) {
		return fmt.Errorf("%s: no server is in what was fetched", dir)
	}
	err = os.Rename(dir, home)
	if err != nil && hasServer(filepath.Join(home, "bin")) {
		return nil // another program was quicker
	}
	return err
}

// letRead lets everybody read what is in dir, and run the programs.
func letRead(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
