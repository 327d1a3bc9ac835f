//go:build unix

package pgserver_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// TestDownload has a Maven repository with one archive, whose programs call those that
// are installed.
func TestDownload(t *testing.T) {
	repository := httptest.NewServer(archiveHandler(mavenArchive(t, requireDownload(t))))
	defer repository.Close()
	useDownload(t, repository.URL)
	checkDownload(t)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// TestDownloadByNPM has an npm that knows one package, with links instead of copies, and
// no Maven repository.
func TestDownloadByNPM(t *testing.T) {
	archive := npmArchive(t, requireDownload(t))
	useDownload(t, "http://127.0.0.1:1")
	useNPM(t, `case "$1" in
view) echo '["17.2.0-beta.17","17.10.0-beta.3","17.10.0-beta.17","18.1.0-beta.15"]' ;;
pack) [ "$2" = "`+pgserver.NPMPackage()+`@17.10.0-beta.17" ] && cp "`+archive+`" . ;;
esac`)
	checkDownload(t)
}

// checkDownload starts a downloaded server, and then another one, for which nothing can
// be downloaded any more.
func checkDownload(t *testing.T) {
	for range 2 {
		s := start(t, pgserver.Download, pgserver.Options{Logf: t.Logf, Version: 17})
		if s.Source() != pgserver.Download || s.PID() == 0 {
			t.Errorf("got %v, pid %d", s.Source(), s.PID())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, s.Port(), s.SocketDir(), "")
		t.Cleanup(pgserver.SetDownload("http://127.0.0.1:1", pgserver.RootCache()))
		useNPM(t, "exit 1")
	}
}

// TestDownloadFails: the error says of each place why nothing was got from it.
func TestDownloadFails(t *testing.T) {
	requireDownload(t)
	cache := useDownload(t, "http://127.0.0.1:1")
	for script, want := range map[string]string{
		"":                            "npm is not installed",
		"echo no network >&2; exit 1": "npm view " + pgserver.NPMPackage() + " versions --json: exit status 1: no network",
		"echo '[\"18.1.0-beta.15\"]'": pgserver.NPMPackage() + ": no PostgreSQL 17",
	} {
		useNPM(t, script)
		_, err := pgserver.Start(testContext(t), pgserver.Options{Sources: []pgserver.Source{pgserver.Download}})
		if err == nil || !strings.Contains(err.Error(), "download: http://127.0.0.1:1: unable to connect") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDownloadCancelled(t *testing.T) {
	requireDownload(t)
	ctx, cancel := context.WithCancel(testContext(t))
	release := make(chan struct{})
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		<-release
		http.NotFound(w, nil)
	}))
	defer repository.Close()
	defer close(release)
	useDownload(t, repository.URL)
	_, err := pgserver.Start(ctx, pgserver.Options{Sources: []pgserver.Source{pgserver.Download}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// requireDownload returns the folder of the programs that stand for downloaded ones.
func requireDownload(t *testing.T) (bin string) {
	t.Helper()
	require(t, pgserver.Installed)
	for _, name := range []string{"tar", "xz"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	bin, err := pgserver.FindInstalled()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// useDownload lets the test download from a Maven repository to an empty cache, which it
// returns.
func useDownload(t *testing.T, repository string) (cache string) {
	cache = openFolder(t)
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Setenv("TMPDIR", openFolder(t))
	t.Cleanup(pgserver.SetDownload(repository, filepath.Join(cache, "pgnotify")))
	return cache
}

// useNPM puts a script in the place of npm, or hides npm if the script is empty.
func useNPM(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if script == "" {
		t.Setenv("PATH", dir)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "npm"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+"/usr/bin:/bin")
}

// programs returns a folder with programs that call those in bin; postgres is the file of
// that program.
func programs(t *testing.T, bin, postgres string) string {
	t.Helper()
	root := tree(t, "bin/initdb", "bin/pg_ctl", postgres)
	for _, name := range []string{"bin/initdb", "bin/pg_ctl", postgres} {
		program := strings.TrimSuffix(filepath.Base(name), ".real")
		script := "#!/bin/sh\nexec " + filepath.Join(bin, program) + ` "$@"` + "\n"
		if err := os.WriteFile(filepath.Join(root, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// mavenArchive returns a jar that holds an archive of a server.
func mavenArchive(t *testing.T, bin string) []byte {
	t.Helper()
	txz, err := exec.Command("tar", "-cJ", "-C", programs(t, bin, "bin/postgres"), "bin").Output()
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	f, err := w.Create("postgres.txz")
	if err == nil {
		_, err = f.Write(txz)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return jar.Bytes()
}

// npmArchive returns the file of a package that holds a server, with a link.
func npmArchive(t *testing.T, bin string) string {
	t.Helper()
	root := programs(t, bin, "bin/postgres.real")
	links := `[{"source":"native/bin/postgres.real","target":"native/bin/postgres"}]`
	if err := os.WriteFile(filepath.Join(root, "pg-symlinks.json"), []byte(links), 0o600); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "package.tgz")
	out, err := exec.Command("tar", "-czf", archive, "-C", root, "--transform", "s,^,package/native/,", "bin", "pg-symlinks.json").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return archive
}

// archiveHandler serves jar and its sum under every name.
func archiveHandler(jar []byte) http.HandlerFunc {
	sum := sha256.Sum256(jar)
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
			return
		}
		_, _ = w.Write(jar)
	}
}
