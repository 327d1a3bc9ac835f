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
		{"help frob", `unknown command "frob"`},
		{"version now", "no arguments"},
		{"listen", "a channel is missing"},
		{"listen --", "a channel is missing"},
		{"listen --frob jobs", "unknown flag --frob"},
		{"listen jobs --frob", "unknown flag --frob"},
		{"listen jobs -count -1", "invalid value"},
		{"listen jobs -count", "needs an argument"},
		{"listen jobs -timeout -1s", "-timeout must not be negative"},
		{"listen jobs -json -raw", "exclude each other"},
		{"listen -d host=/nowhere -- --jobs " + strings.Repeat("x", 64), "invalid channel name"},
		{"notify", "a channel is missing"},
		{"notify jobs a b", "more arguments"},
		{"notify jobs -5", "unknown flag -5"},
		{"notify jobs -timeout -1s", "-timeout must not be negative"},
		{"notify -d host=/nowhere " + strings.Repeat("x", 64), "invalid channel name"},
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

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"help", "pgnotify listen"},
		{"-h", "pgnotify listen"},
		{"--help", "pgnotify listen"},
		{"help --help", "pgnotify listen"},
		{"help help", "pgnotify listen"},
		{"help listen", listenHelp},
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
