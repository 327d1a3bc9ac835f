package pgnotify

import (
	"maps"
	"net/url"
	"os"
	"strings"
	"unicode"
)

// settings holds the parameters of a DSN, including the password.
type settings map[string]string

// readSettings reads a DSN as lib/pq does. For malformed pairs it returns nil, and
// leaves the error message to lib/pq.
func readSettings(dsn string) (settings, error) {
	if isURL(dsn) {
		return readURL(dsn)
	}
	return readPairs(dsn), nil
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// checkNames refuses names that no parameter can have.
func (s settings) checkNames() error {
	foreign := func(r rune) bool {
		return r != '_' && r != '.' && r != '$' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	for name := range s {
		if strings.ContainsFunc(name, foreign) {
			return errName
		}
	}
	return nil
}

// hosts returns the servers that the settings or, for what they lack, the environment
// name.
func (s settings) hosts() (hostList, error) {
	return newHostList(s.or("host", "PGHOST"), s.or("hostaddr", "PGHOSTADDR"), s.or("port", "PGPORT"))
}

func (s settings) or(name, variable string) string {
	if value, ok := s[name]; ok {
		return value
	}
	return os.Getenv(variable)
}

// withoutHosts returns the settings with one meaningless server. lib/pq prepends the
// lists of the environment to those of the DSN, so the lists are padded until all three
// have the same length.
func (s settings) withoutHosts() settings {
	list := func(value, other, another string) string {
		n := strings.Count(os.Getenv(other), ",") + strings.Count(os.Getenv(another), ",")
		return value + strings.Repeat(","+value, n)
	}
	without := maps.Clone(s)
	without["host"] = list("none.invalid", "PGHOSTADDR", "PGPORT")
	without["hostaddr"] = list("127.0.0.1", "PGHOST", "PGPORT")
	without["port"] = list("1", "PGHOST", "PGHOSTADDR")
	return without
}

// pairs returns the settings as key=value pairs. lib/pq is never given a URL, because
// its errors would quote it.
func (s settings) pairs() string {
	quote := strings.NewReplacer(`'`, `\'`, `\`, `\\`)
	var b strings.Builder
	for name, value := range s {
		b.WriteString(name + "='" + quote.Replace(value) + "' ")
	}
	return b.String()
}

// add sets a parameter of a URL, unless its value is empty.
func (s settings) add(name, value string) {
	if value != "" {
		s[name] = value
	}
}

// readURL reads a URL. Unlike package url, it accepts several hosts, each with a port,
// and sockets with their slashes encoded.
func readURL(dsn string) (settings, error) {
	scheme, rest, _ := strings.Cut(dsn, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	user := strings.LastIndexByte(rest[:end], '@') + 1
	hosts := rest[user:end]
	u, err := url.Parse(scheme + "://" + rest[:user] + rest[end:])
	if err != nil || isTorn(u, hosts) {
		return nil, errURL
	}
	s := settings{}
	s.add("user", u.User.Username())
	password, _ := u.User.Password()
	s.add("password", password)
	s.add("dbname", strings.TrimPrefix(u.Path, "/"))
	if err := s.addHosts(hosts); err != nil {
		return nil, err
	}
	query := u.Query()
	for name := range query {
		s.add(name, query.Get(name))
	}
	return s, nil
}

// isTorn reports whether a URL, read without its hosts, seems to be torn apart by a
// character of its password. "user:12/34@host" is a valid URL, but it names a host
// "user" and a database "34@host", and errors would show them.
func isTorn(u *url.URL, hosts string) bool {
	if u.Fragment != "" {
		return true
	}
	_, port := cutPort(hosts)
	if u.User != nil || port == "" {
		return false
	}
	return strings.Contains(u.EscapedPath(), "@") || u.Path == "" && strings.Contains(u.RawQuery, "@")
}

// addHosts adds the hosts of a URL and their ports. Its error does not quote them,
// because they may be part of a password.
func (s settings) addHosts(list string) error {
	var hosts, ports []string
	for _, item := range strings.Split(list, ",") {
		host, port := cutPort(item)
		host, err := url.PathUnescape(host)
		bare, bracket := strings.CutPrefix(host, "[")
		bare, closed := strings.CutSuffix(bare, "]")
		if err != nil || bracket != closed || !bracket && strings.Contains(bare, ":") ||
			strings.ContainsFunc(port, func(r rune) bool { return r < '0' || r > '9' }) {
			return errURL
		}
		hosts, ports = append(hosts, bare), append(ports, port)
	}
	s.add("host", strings.Join(hosts, ","))
	if port := strings.Join(ports, ","); strings.Trim(port, ",") != "" {
		s.add("port", port)
	}
	return nil
}

// cutPort cuts off what follows the last colon outside of brackets.
func cutPort(host string) (name, port string) {
	i := strings.LastIndexByte(host, ':')
	if i < strings.LastIndexByte(host, ']') || i < 0 {
		return host, ""
	}
	return host[:i], host[i+1:]
}

// readPairs reads key=value pairs like libpq's conninfo_parse. It returns nil if they
// are malformed.
func readPairs(dsn string) settings {
	s := settings{}
	for rest := skipSpace(dsn); rest != ""; rest = skipSpace(rest) {
		i := strings.IndexFunc(rest, func(r rune) bool { return r == '=' || unicode.IsSpace(r) })
		if i < 0 {
			return nil
		}
		name := rest[:i]
		value, ok := strings.CutPrefix(skipSpace(rest[i:]), "=")
		if !ok {
			return nil
		}
		if s[name], rest, ok = cutValue(skipSpace(value)); !ok {
			return nil
		}
	}
	return s
}

func skipSpace(text string) string { return strings.TrimLeftFunc(text, unicode.IsSpace) }

// cutValue cuts off a value, quoted or up to the next space, and resolves its
// backslashes.
func cutValue(text string) (value, rest string, ok bool) {
	text, quoted := strings.CutPrefix(text, "'")
	var b strings.Builder
	escaped := false
	for i, r := range text {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case quoted && r == '\'':
			return b.String(), text[i+1:], true
		case !quoted && unicode.IsSpace(r):
			return b.String(), text[i:], true
		default:
			b.WriteRune(r)
		}
	}
	return b.String(), "", !quoted && !escaped
}
