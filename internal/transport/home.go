package transport

import (
	"os"
	"os/user"
	"path/filepath"
	"runtime"
)

// defaultFile returns the path of a file that is used by default: name in
// ~/.postgresql, or in %APPDATA%\postgresql on Windows. It returns "" if that folder is
// unknown.
// https://www.postgresql.org/docs/current/libpq-ssl.html
func defaultFile(name string) string {
	if runtime.GOOS == "windows" {
		data := os.Getenv("APPDATA")
		if data == "" {
			return ""
		}
		return filepath.Join(data, "postgresql", name)
	}
	home := homeFolder()
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".postgresql", name)
}

// homeFolder prefers the environment to the user database, as libpq does.
func homeFolder() string {
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		return home
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return ""
}
