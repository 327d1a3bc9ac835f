package pgnotify

import (
	"bufio"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// hasPassword reports whether lib/pq had a password for the host: that of config or
// that of the password file, which lib/pq does not tell.
func hasPassword(config *pq.Config, host transport.Endpoint) bool {
	if config.Password != "" {
		return true
	}
	file, err := os.Open(passfile(config))
	if err != nil {
		return false
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return false // lib/pq ignores it, and warns
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := passfileFields(lines.Text()); passfileMatches(fields, config, host) {
			return fields[4] != ""
		}
	}
	return false
}

// passfile returns the path of the password file, as lib/pq finds it.
func passfile(config *pq.Config) string {
	if config.Passfile != "" {
		return config.Passfile
	}
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("APPDATA"), "postgresql", ".pgpass")
	}
	home, _ := os.UserHomeDir()
	if u, err := user.Current(); home == "" && err == nil {
		home = u.HomeDir
	}
	return filepath.Join(home, ".pgpass")
}

// passfileMatches reports whether a line of the password file is for the server, the
// database and the user. Sockets are named by their folder or as localhost.
func passfileMatches(fields []string, config *pq.Config, host transport.Endpoint) bool {
	is := func(field, wanted string) bool { return field == "*" || field == wanted }
	socket := host.Host == "" || isUnixHost(host.Host)
	return len(fields) == 5 &&
		(is(fields[0], host.Host) || socket && fields[0] == "localhost") &&
		is(fields[1], strconv.Itoa(int(host.Port))) && is(fields[2], config.Database) && is(fields[3], config.User)
}

// passfileFields splits a line at its colons, except those behind a backslash. A
// comment has no fields.
func passfileFields(line string) (fields []string) {
	if strings.HasPrefix(line, "#") {
		return nil
	}
	var field strings.Builder
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			escaped = false
			field.WriteRune(r)
		case r == '\\':
			escaped = true
		case r == ':':
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteRune(r)
		}
	}
	return append(fields, field.String())
}
