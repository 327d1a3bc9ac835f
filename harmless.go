package pgnotify

import (
	"database/sql/driver"
	"strings"
)

// isHarmlessSetting reports whether no result depends on a setting. One with a dot in its
// name belongs to an extension or to the program.
func isHarmlessSetting(name string) bool {
	var buf [maxFolded]byte
	switch string(fold(&buf, name)) {
	case "statement_timeout", "lock_timeout", "transaction_timeout", "deadlock_timeout",
		"idle_in_transaction_session_timeout", "idle_session_timeout", "client_connection_check_interval",
		"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout",
		"application_name", "client_min_messages", "log_min_messages", "log_statement", "log_duration",
		"log_min_duration_statement", "log_min_error_statement",
		"work_mem", "hash_mem_multiplier", "maintenance_work_mem", "temp_buffers",
		"synchronous_commit", "commit_delay", "commit_siblings",
		"transaction_isolation", "transaction_read_only", "transaction_deferrable",
		"default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable":
		return true
	}
	return strings.IndexByte(name, '.') >= 0
}

// namesHarmless reports whether the n-th argument is the name of a harmless setting.
func namesHarmless(args []driver.NamedValue, n int) bool {
	if n > len(args) {
		return false
	}
	switch name := args[n-1].Value.(type) {
	case string:
		return isHarmlessSetting(name)
	case []byte:
		return isHarmlessSetting(string(name))
	}
	return false
}

// namesPresent reports whether a literal has a word for the present time. The server finds
// such a word next to anything but letters.
func namesPresent(literal string) bool {
	var buf [maxFolded]byte
	for literal != "" {
		n := count(literal, letter)
		if n >= len("now") {
			switch string(fold(&buf, literal[:n])) {
			case "now", "today", "tomorrow", "yesterday":
				return true
			}
		}
		literal = literal[min(n+1, len(literal)):]
	}
	return false
}

// maxFolded is the length of the longest word that is looked up.
const maxFolded = len("idle_in_transaction_session_timeout")

// fold returns a word in lower case, and nothing if it is longer than maxFolded. Like the
// server it changes only ASCII letters.
func fold(buf *[maxFolded]byte, word string) []byte {
	if len(word) > maxFolded {
		return nil
	}
	for i := range len(word) {
		buf[i] = lower(word[i])
	}
	return buf[:len(word)]
}

// isSame compares a word with a folded one.
func isSame(word, folded string) bool {
	if len(word) != len(folded) {
		return false
	}
	for i := range len(word) {
		if lower(word[i]) != folded[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c |= 0x20
	}
	return c
}
