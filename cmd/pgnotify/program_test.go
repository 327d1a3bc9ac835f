package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// theProgram is the real one, built by the first test that asks for it.
var theProgram struct {
	once   sync.Once
	folder string
	err    error
}

// program returns the path of the real program.
func program(t testing.TB) string {
	t.Helper()
	p := &theProgram
	p.once.Do(func() {
		if p.folder, p.err = os.MkdirTemp("", "pgnotify-cmd-test-"); p.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", programPath(), ".").CombinedOutput(); err != nil {
			p.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return programPath()
}

func programPath() string {
	path := filepath.Join(theProgram.folder, "pgnotify")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path
}

func removeProgram() error { return os.RemoveAll(theProgram.folder) }

// environment is that of a program that is told of the server by PG* variables
// alone.
func environment(t testing.TB) []string {
	t.Helper()
	config, err := pgnotify.ParseConfig(dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + filepath.Dir(program(t)) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"PGHOST=" + config.Host, fmt.Sprintf("PGPORT=%d", config.Port), "PGUSER=" + config.User,
		"PGDATABASE=" + config.Database, "PGSSLMODE=" + string(config.SSLMode), "PGAPPNAME=" + appName,
	}
	if config.Password != "" {
		env = append(env, "PGPASSWORD="+config.Password)
	}
	if root := os.Getenv("SYSTEMROOT"); root != "" {
		env = append(env, "SYSTEMROOT="+root)
	}
	return env
}

// The real program has the statuses that the help tells, and takes the PG*
// variables.
func TestProgram(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"notify", newChannel(), "hello"}, exitOK},
		{[]string{"watch", "-count=1"}, exitOK},
		{[]string{"listen", newChannel(), "-timeout=50ms", "-count=1"}, exitFailure},
		{[]string{"notify", newChannel(), "-d", "no_such_database"}, exitFailure},
		{[]string{"listen"}, exitUsage},
		{nil, exitUsage},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(testContext(t), program(t), c.args...)
			cmd.Env = environment(t)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("status %d: %s", code, out)
			}
		})
	}
}
