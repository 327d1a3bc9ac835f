package main

import (
	"regexp"
	"strings"
	"testing"
)

// What is called in the wrong way says so, and fails with 2 before anything is
// asked of a server.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "a command is missing"},
		{"frob", `unknown command "frob"`},
		{"help frob", "unknown command \"frob\"\nTry: pgnotify help\n"},
		{"version now", "no arguments"},
		{"listen", "a channel is missing"},
		{"listen --", "a channel is missing"},
		{"listen --frob jobs", "unknown flag --frob"},
		{"listen jobs --frob", "unknown flag --frob"},
		{"listen jobs -count -1", "-count: must be positive"},
		{"listen jobs -count -p", "-count: needs a whole number"},
		{"listen jobs -count 0", "-count: must be positive"},
		{"listen jobs -count many", "-count: needs a whole number"},
		{"listen jobs -timeout 2", "-timeout: needs a unit, such as 2s"},
		{"listen jobs -timeout soon", "-timeout: needs a duration, such as 2s"},
		{"notify jobs -timeout 2.5", "-timeout: needs a unit, such as 2s"},
		{"watch -interval 2", "-interval: needs a unit, such as 2s"},
		{"listen jobs -count", "needs an argument"},
		{"listen jobs -timeout -1s", "-timeout must not be negative"},
		{"listen jobs -json -raw", "exclude each other"},
		{"listen -d host=/nowhere -- --jobs " + strings.Repeat("x", 64), "invalid channel name"},
		{"notify", "a channel is missing"},
		{"notify jobs a b", "more arguments"},
		{"notify jobs -5", "unknown flag -5"},
		{"notify jobs -timeout -1s", "-timeout must not be negative"},
		{"notify -d host=/nowhere " + strings.Repeat("x", 64), "invalid channel name"},
		{"notify -d host=/nowhere jobs " + strings.Repeat("x", 8000), "payload too long"},
		{"watch jobs", "no arguments"},
		{"watch -interval 0", "-interval"},
		{"watch -timeout -1s", "-timeout must not be negative"},
		{"watch -d sslmode=frob", "sslmode"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, "", strings.Fields(c.args)...)
			if code != exitUsage || out != "" || !strings.Contains(errs, c.want) || !strings.Contains(errs, "pgnotify help") {
				t.Errorf("status %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

// Users of psql are told how the server is named. They do not get the help and status 0.
func TestPsqlFlags(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"listen -h 127.0.0.1 -p 5432 -U u jobs",
		"listen -h 127.0.0.1 jobs",
		"listen -h=127.0.0.1 jobs",
		"listen -h127.0.0.1 jobs",
		"listen jobs -h 127.0.0.1",
		"listen jobs -h -U u",
		"listen jobs --help -p 5432",
		"listen jobs --host 127.0.0.1",
		"listen jobs -p5432",
		"listen -Uu jobs",
		"notify -U u jobs",
		"notify jobs -W",
		"watch -w",
		"watch --port=5432",
		"-h 127.0.0.1 listen jobs",
		"-h listen -U u",
		"-U u listen jobs",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, "", strings.Fields(args)...)
			if code != exitUsage || out != "" || !strings.Contains(errs, `use -d "host=127.0.0.1 port=5432 user=u"`) {
				t.Errorf("status %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"help", "pgnotify listen"},
		{"-h", "pgnotify listen"},
		{"--help", "pgnotify listen"},
		{"help --help", "pgnotify listen"},
		{"help help", "pgnotify listen"},
		{"help listen", listenHelp},
		{"-h listen", listenHelp},
		{"listen -h -json", listenHelp},
		{"listen -h", listenHelp},
		{"listen jobs --help", listenHelp},
		{"help notify", notifyHelp},
		{"notify -h", notifyHelp},
		{"watch --help", watchHelp},
		{"help version", versionHelp},
		{"version -h", versionHelp},
		{"version", "pgnotify "},
		{"--version", "pgnotify "},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, "", strings.Fields(c.args)...)
			if code != exitOK || errs != "" || !strings.Contains(out, c.want) {
				t.Errorf("status %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

// The help tells of flags that there are, in lines that fit.
func TestHelpFlags(t *testing.T) {
	t.Parallel()
	flag := regexp.MustCompile(`(?m)^  (-\w+)`)
	for _, c := range commands() {
		for _, l := range strings.Split(c.help, "\n") {
			if len(l) > 84 {
				t.Errorf("%s: long line: %s", c.name, l)
			}
		}
		_, flags, _ := strings.Cut(c.help, "Flags:\n")
		for _, f := range flag.FindAllStringSubmatch(flags, -1) {
			for _, dashes := range []string{"", "-"} {
				_, _, errs := call(t, "", c.name, dashes+f[1]+"=1s", "--frob")
				if !strings.Contains(errs, "invalid ") && !strings.Contains(errs, "unknown flag --frob") {
					t.Errorf("%s %s: %s", c.name, f[1], errs)
				}
			}
		}
	}
}

// Nothing that may be a password comes out, wherever a DSN was put.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"postgres://u:s3cret@h/db"},
		{"help", "postgres://u:s3cret@h/db"},
		{"listen", "postgres://u:s3cret@h/db"},
		{"notify", "postgres://u:s3cret@h/db", "x"},
		{"watch", "postgres://u:s3cret@h/db"},
		{"listen", "-dpostgres://u:s3cret@h/db", "jobs"},
		{"listen", "-ps3cret", "jobs"},
		{"listen", "--password=s3cret", "jobs"},
		{"listen", "-d", "postgre://u:s3cret@h/db", "jobs"},
		{"listen", "-d", "postgre://u:s3cret@h/db?sslmode=disable", "jobs"},
		{"listen", "-d", "u:s3cret@h", "jobs"},
		{"listen", "-d", "postgres://u:s3cret@h:x/db", "jobs"},
		{"listen", "-d", "postgres://u:s3cret/x@h/db", "jobs"},
		{"listen", "-d", "host=127.0.0.1 port=1 password=s3cret", "jobs"},
		{"notify", "-d", "host=127.0.0.1 port=1 password=s3cret", "jobs"},
		{"watch", "-d", "postgres://u:s3cret@127.0.0.1:1/db"},
		{"watch", "-json", "-wait", "-count=1", "-d", "postgres://u:s3cret@127.0.0.1:1/db"},
		{"listen", "-d", "host=127.0.0.1 port=1 password='s3cret", "jobs"},
		{"listen", "-d", "host=127.0.0.1 password= s3cret x", "jobs"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			code, out, errs := call(t, "", args...)
			if code == exitOK || strings.Contains(out+errs, "s3cret") {
				t.Errorf("status %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

func TestReadServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ d, want string }{
		{"", ""},
		{"shop", "dbname='shop'"},
		{`it's a "\`, `dbname='it\'s a "\\'`},
		{"dbname=shop", "dbname=shop"},
		{"postgres://h/shop?x=y", "postgres://h/shop?x=y"},
		{"postgresql://u:p@h/shop", "postgresql://u:p@h/shop"},
		{"user=u password=a@b//", "user=u password=a@b//"},
	} {
		if got, err := readServer(c.d); got != c.want || err != nil {
			t.Errorf("%q: %q, %v", c.d, got, err)
		}
	}
}
