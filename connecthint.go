package pgnotify

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/lib/pq"
)

// hint returns what is probably wrong with the DSN that the server has refused, in
// brackets, or "" if that cannot be told.
func hint(config *Config, server *pq.Error) string {
	switch {
	case server.Code == "28P01" && !mayHavePassword(&config.Config):
		return " (no password was given)"
	case server.Code == "42704": // a setting that the server does not know
		return parameterHint(config, server.Message)
	}
	return ""
}

// mayHavePassword reports whether lib/pq may have had a password: that of config, or one
// of the password file, if there is that file.
func mayHavePassword(config *pq.Config) bool {
	if config.Password != "" {
		return true
	}
	file := config.Passfile
	if home, err := os.UserHomeDir(); file == "" && err == nil {
		file = filepath.Join(home, ".pgpass")
	}
	_, err := os.Stat(file)
	return err == nil || runtime.GOOS == "windows" // where it is elsewhere
}

// parameterHint returns which parameter was probably meant by the one that the server
// names in its message. lib/pq sends what it does not know as a setting.
func parameterHint(config *Config, message string) string {
	var name string
	for sent := range config.Runtime {
		if strings.Contains(message, sent) && len(sent) > len(name) {
			name = sent
		}
	}
	if meant := nearestParameter(name); meant != "" {
		return fmt.Sprintf(" (did you mean %s?)", meant)
	}
	return ""
}

// libParameters are those that lib/pq knows. Those of libpq are in libpqParameters, those
// of pgnotify in parameters.
var libParameters = []string{
	"application_name", "binary_parameters", "client_encoding", "connect_timeout",
	"database", "datestyle", "dbname", "disable_prepared_binary_result",
	"fallback_application_name", "geqo", "host", "hostaddr", "krbspn", "krbsrvname",
	"load_balance_hosts", "max_protocol_version", "min_protocol_version", "options",
	"passfile", "password", "port", "service", "ssl_max_protocol_version",
	"ssl_min_protocol_version", "sslcert", "sslinline", "sslkey", "sslmode",
	"sslnegotiation", "sslrootcert", "sslsni", "target_session_attrs", "tz", "user",
}

// nearestParameter returns the parameter that name most resembles, with at most two
// mistakes and one for each three letters, or "".
func nearestParameter(name string) (nearest string) {
	name = strings.ToLower(name)
	least := min(2, len(name)/3) + 1
	try := func(known string) {
		if n := mistakes(name, known); n < least || n == least && known < nearest {
			nearest, least = known, n
		}
	}
	for _, known := range libParameters {
		try(known)
	}
	for known := range parameters {
		try(known)
	}
	for known := range libpqParameters {
		try(known)
	}
	return nearest
}

// mistakes returns how many letters must be changed, added or removed, or swapped with
// the next, to make b of a.
func mistakes(a, b string) int {
	rows := make([][]int, len(a)+1) // rows[i][j] is for a[:i] and b[:j]
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j], rows[i][j-1], rows[i-1][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
