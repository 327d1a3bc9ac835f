package pgserver_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// tree makes executable files in a new folder and returns it.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// servers returns the files of servers in dirs.
func servers(dirs ...string) (files []string) {
	for _, dir := range dirs {
		files = append(files, dir+"/initdb", dir+"/postgres")
	}
	return files
}

func TestFindBin(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		files    []string
		path     string // relative to the tree, separated by spaces
		patterns string
		want     string
	}{
		{"path", servers("a", "pg/17/bin"), "a", "pg/*/bin", "a"},
		{"second in path", servers("b"), "a b", "", "b"},
		{"half a server in path", append(servers("b"), "a/postgres"), "a b", "", "b"},
		{"newest", servers("pg/9.6/bin", "pg/15/bin", "pg/17/bin", "pg/8.4/bin"), "", "pg/*/bin", "pg/17/bin"},
		{"newest that is whole", append(servers("pg/9.6/bin", "pg/15/bin"), "pg/17/bin/postgres"), "", "pg/*/bin", "pg/15/bin"},
		{"ten is newer than nine", servers("pg-9.6/bin", "pg-10/bin"), "", "pg-*/bin", "pg-10/bin"},
		{"first pattern that has one", servers("b@14/bin", "c/17"), "", "a/* b@*/bin c/*", "b@14/bin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := tree(t, tt.files...)
			path := strings.Join(under(root, tt.path), string(filepath.ListSeparator))
			got, err := pgserver.FindBin(path, under(root, tt.patterns), 0)
			if want := filepath.Join(root, tt.want); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// TestFindBinOfVersion: what a server says of itself counts, not the name of its folder.
func TestFindBinOfVersion(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("its servers are scripts")
	}
	root := tree(t, servers("a", "pg/18/bin", "pg/15/bin", "pg/14/bin")...)
	for dir, says := range map[string]string{"a": "17.5 (Debian 17.5-1)", "pg/18/bin": "18beta1", "pg/15/bin": "15.18", "pg/14/bin": ""} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + says + "'\n"
		if err := os.WriteFile(filepath.Join(root, dir, "postgres"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for major, want := range map[int]string{0: "a", 15: "pg/15/bin", 17: "a", 18: "pg/18/bin", 14: "", 16: ""} {
		got, err := pgserver.FindBin(filepath.Join(root, "a"), under(root, "pg/*/bin"), major)
		if want == "" && err == nil || want != "" && got != filepath.Join(root, want) {
			t.Errorf("version %d: got %q, %v, want %q", major, got, err, want)
		}
	}
}

// under returns the paths in list under root.
func under(root, list string) (paths []string) {
	for _, path := range strings.Fields(list) {
		paths = append(paths, filepath.Join(root, path))
	}
	return paths
}

func TestFindBinFollowsLinks(t *testing.T) {
	t.Parallel()
	root := tree(t, servers("lib/17/bin")...)
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.Symlink(filepath.Join(root, "lib/17/bin", name), filepath.Join(bin, name)); err != nil {
			if runtime.GOOS == "windows" {
				t.Skip(err) // it takes a privilege there
			}
			t.Fatal(err)
		}
	}
	got, err := pgserver.FindBin(bin, nil, 0)
	if want := filepath.Join(root, "lib/17/bin"); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestFindBinNothing(t *testing.T) {
	t.Parallel()
	root := tree(t, "a/postgres", "b/initdb")
	got, err := pgserver.FindBin(strings.Join(under(root, "a b"), string(filepath.ListSeparator)), under(root, "*"), 0)
	if err == nil {
		t.Errorf("got %q, want an error", got)
	}
}
