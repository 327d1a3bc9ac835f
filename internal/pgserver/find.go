package pgserver

import (
	"cmp"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// binPatterns are where packages put a server's binaries, apart from PATH.
var binPatterns = []string{
	"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                   // PGDG for Red Hat, Fedora, SUSE
	"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
	"/opt/homebrew/bin",                  //
	"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	`C:\Program Files\PostgreSQL\*\bin`,
}

// findBin returns the folder of the first server found in path, a list like PATH, or by
// the patterns, each of which is searched newest version first. A major version that is
// not 0 is the only one looked for.
func findBin(path string, patterns []string, major int) (string, error) {
	fits := func(dir string) bool { return hasServer(dir) && (major == 0 || majorVersion(dir) == major) }
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) && fits(dir) {
			return resolveBin(dir), nil
		}
	}
	for _, pattern := range patterns {
		dirs, _ := filepath.Glob(pattern) // its only error is a bad pattern
		slices.SortFunc(dirs, newestFirst)
		if i := slices.IndexFunc(dirs, fits); i >= 0 {
			return dirs[i], nil
		}
	}
	if major != 0 {
		return "", fmt.Errorf("PostgreSQL %d is neither in PATH nor where packages put it", major)
	}
	return "", errors.New("initdb and postgres are neither in PATH nor where packages put them")
}

// majorVersion returns the major version of the server in dir, or 0.
func majorVersion(dir string) (major int) {
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err == nil {
		_, err = fmt.Sscanf(string(out), "postgres (PostgreSQL) %d", &major)
	}
	if err != nil {
		return 0
	}
	return major
}

// hasServer reports whether dir has the programs that are needed.
func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// resolveBin follows dir's links, such as /usr/local/bin/postgres, to the folder of the
// programs, because they look for their other files next to it.
func resolveBin(dir string) string {
	real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil || !hasServer(filepath.Dir(real)) {
		return dir
	}
	return filepath.Dir(real)
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)

// newestFirst orders folders by the version in their names: 10 before 9.6.
func newestFirst(a, b string) int { return cmp.Compare(versionOf(b), versionOf(a)) }

// versionOf returns the last number in dir, or 0.
func versionOf(dir string) (version float64) {
	if numbers := versionNumber.FindAllString(dir, -1); len(numbers) > 0 {
		version, _ = strconv.ParseFloat(numbers[len(numbers)-1], 64)
	}
	return version
}
