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

// TestDownload has a repository with one archive, whose programs call those that
// are installed.
func TestDownload(t *testing.T) {
	requireDownload(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("TMPDIR", openFolder(t))
	repository := httptest.NewServer(archiveHandler(archive(t)))
	t.Cleanup(pgserver.SetDownloadFrom(repository.URL))
	for _, cached := range []bool{false, true} {
		if cached {
			repository.Close()
		}
		s := start(t, pgserver.Download, pgserver.Options{Logf: t.Logf})
		if s.Source() != pgserver.Download || s.PID() == 0 {
			t.Errorf("got %v, pid %d", s.Source(), s.PID())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, s.Port(), s.SocketDir(), "")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestDownloadFails(t *testing.T) {
	requireDownload(t)
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Setenv("TMPDIR", cache)
	t.Cleanup(pgserver.SetDownloadFrom("http://127.0.0.1:1"))
	_, err := pgserver.Start(testContext(t), pgserver.Options{Sources: []pgserver.Source{pgserver.Download}})
	if err == nil || !strings.Contains(err.Error(), "download: http://127.0.0.1:1: unable to connect") {
		t.Errorf("got %v", err)
	}
}

func TestDownloadCancelled(t *testing.T) {
	requireDownload(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(testContext(t))
	release := make(chan struct{})
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		<-release
		http.NotFound(w, nil)
	}))
	defer repository.Close()
	defer close(release)
	t.Cleanup(pgserver.SetDownloadFrom(repository.URL))
	_, err := pgserver.Start(ctx, pgserver.Options{Sources: []pgserver.Source{pgserver.Download}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func requireDownload(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("not possible as root")
	}
	require(t, pgserver.Installed)
	for _, name := range []string{"tar", "xz"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
}

// archive returns a jar that holds an archive of a server.
func archive(t *testing.T) []byte {
	t.Helper()
	bin, err := pgserver.FindInstalled()
	if err != nil {
		t.Fatal(err)
	}
	programs := []string{"bin/initdb", "bin/pg_ctl", "bin/postgres"}
	root := tree(t, programs...)
	for _, program := range programs {
		script := "#!/bin/sh\nexec " + filepath.Join(bin, filepath.Base(program)) + ` "$@"` + "\n"
		if err := os.WriteFile(filepath.Join(root, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	txz, err := exec.Command("tar", "-cJ", "-C", root, "bin").Output()
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
