package pgnotify

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"strconv"
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
	return newHostList(s.source("host", "PGHOST"), s.source("hostaddr", "PGHOSTADDR"), s.source("port", "PGPORT"))
}

// A source is a value and where it comes from, for errors.
type source struct{ value, name string }

// source returns the value of a setting or, if it is not given, of a variable.
func (s settings) source(name, variable string) source {
	if value, ok := s[name]; ok {
		return source{value, strconv.Quote(name)}
	}
	return source{os.Getenv(variable), "$" + variable}
}

func (s settings) or(name, variable string) string { return s.source(name, variable).value }

// addVersions adds the variables that lib/pq v1.12.3 reads by other names.
func (s settings) addVersions() error {
	for _, name := range []string{"ssl_min_protocol_version", "ssl_max_protocol_version"} {
		from := s.source(name, libpqParameters[name].variable)
		if from.value == "" || from.name[0] != '$' {
			continue
		}
		version := strings.ToLower(from.value)
		switch version {
		case "tlsv1":
			version = "tlsv1.0"
		case "tlsv1.1", "tlsv1.2", "tlsv1.3":
		default:
			return &opError{"wrong value for " + from.name, fmt.Errorf("%.80q is not TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3", from.value)}
		}
		s[name] = "TLSv" + strings.TrimPrefix(version, "tlsv")
	}
	return nil
}

// nameless reports whether no application_name is to be sent: as in libpq, a blank one
// means that of the role or the database.
func (s settings) nameless() bool {
	if name, ok := s["application_name"]; ok {
		return name == ""
	}
	if name, ok := os.LookupEnv("PGAPPNAME"); ok {
		return name == ""
	}
	name, ok := s["fallback_application_name"]
	return ok && name == ""
}

// forLibpq returns the settings without the service and with one meaningless server.
// lib/pq prepends the lists of the environment to those of the DSN, so the lists are
// padded until all three have the same length.
func (s settings) forLibpq() settings {
	list := func(value, other, another string) string {
		n := strings.Count(os.Getenv(other), ",") + strings.Count(os.Getenv(another), ",")
		return value + strings.Repeat(","+value, n)
	}
	without := maps.Clone(s)
	delete(without, "servicefile")
	without["service"] = "" // or lib/pq would read that of $PGSERVICE
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
	if query.Has("application_name") { // blank has a meaning of its own
		s["application_name"] = query.Get("application_name")
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
	s.add("port", strings.Join(ports, ",")) // of several hosts each has its port: PGPORT is not for them
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
