package pgnotify

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Service files are read here. lib/pq v1.12.3 shows their lines, which may hold a
// password, in its errors, lets them replace what the DSN says, and knows fewer
// parameters.
// https://www.postgresql.org/docs/current/libpq-pgservice.html

// addService adds what the settings lack from the service that they, or $PGSERVICE, name.
func (s settings) addService() error {
	service := s.or("service", "PGSERVICE")
	if service == "" {
		return nil
	}
	for _, path := range s.serviceFiles() {
		found, err := readService(path, service)
		if err != nil {
			return fmt.Errorf("pgnotify: service file %q: %w", path, err)
		}
		if found == nil {
			continue
		}
		for name, value := range found {
			if _, ok := s[name]; !ok {
				s[name] = value
			}
		}
		return nil
	}
	return fmt.Errorf("pgnotify: the service %.80q is not defined in %q", service, s.serviceFiles())
}

// serviceFiles returns the files in which to look for a service, in this order.
func (s settings) serviceFiles() (paths []string) {
	user := s.or("servicefile", "PGSERVICEFILE")
	if home, err := os.UserHomeDir(); user == "" && err == nil {
		user = filepath.Join(home, ".pg_service.conf")
		if data := os.Getenv("APPDATA"); runtime.GOOS == "windows" && data != "" {
			user = filepath.Join(data, "postgresql", ".pg_service.conf")
		}
	}
	if user != "" {
		paths = append(paths, user)
	}
	if folder := os.Getenv("PGSYSCONFDIR"); folder != "" {
		paths = append(paths, filepath.Join(folder, "pg_service.conf"))
	}
	return paths
}

// readService reads a service, or returns nil if the file does not define it. As in
// libpq, the first of several values counts.
func readService(path, service string) (settings, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Unwrap(err) // without the path
	}
	defer file.Close()
	var found settings
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		section, isSection := cutSection(line)
		switch {
		case line == "" || line[0] == '#':
		case isSection && found != nil:
			return found, nil
		case isSection && section == service:
			found = settings{}
		case found != nil:
			if err := found.addLine(line); err != nil {
				return nil, fmt.Errorf("line %d %w", n, err)
			}
		}
	}
	return found, lines.Err()
}

func cutSection(line string) (name string, ok bool) {
	if len(line) < 2 || line[0] != '[' || line[len(line)-1] != ']' {
		return "", false
	}
	return strings.TrimSpace(line[1 : len(line)-1]), true
}

// addLine adds the parameter of a line. Its error shows nothing of the line.
func (s settings) addLine(line string) error {
	name, value, ok := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch {
	case !ok || name == "":
		return errors.New("is not of the form name=value")
	case name == "service" || name == "servicefile":
		return errors.New("names another service, which is not possible")
	case !isParameter(name):
		return errors.New("has a parameter that is not known; settings for the server belong into options")
	}
	if _, ok := s[name]; !ok {
		s[name] = value
	}
	return nil
}
