// Package docs_test checks the Go code in the documentation: it compiles and is
// formatted.
package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// imports are what a snippet may use without saying so.
var imports = []string{
	"context", "database/sql", "errors", "fmt", "log", "log/slog", "os", "os/signal", "sync", "time",
	"github.com/lib/pq", "github.com/lib/pq/pqerror", "github.com/pgnotify/pgnotify",
}

// within is the function that a snippet is a part of. The variables are those that
// the pages speak of.
const within = `package snippet

import (
	%s
)

func _(ctx context.Context, db *sql.DB, conn *sql.Conn, pc *pgnotify.Conn, dsn, id string, jobs chan string, poll func(fd uintptr), lead, reload, takeJobs func(context.Context) error, connector *pgnotify.Connector, l *pgnotify.Listener, sub *pgnotify.Subscription) error {
	{
%s
	}
	return nil
}
`

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

func TestSnippetsCompile(t *testing.T) {
	t.Parallel()
	check := newChecker(t)
	for _, page := range []string{"../README.md", "psycopg.md", "disconnection.md", "listener.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := goBlock.FindAllSubmatchIndex(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no Go code", page)
		}
		for _, at := range blocks {
			line := 1 + bytes.Count(text[:at[2]], []byte("\n"))
			code := text[at[2]:at[3]]
			if err := check(string(code)); err != nil {
				t.Errorf("%s:%d: %v", page, line, err)
			}
			if formatted, err := format.Source(code); err == nil && !bytes.Equal(formatted, code) {
				t.Errorf("%s:%d: not as gofmt has it:\n%s", page, line, formatted)
			}
		}
	}
}

// newChecker returns a function that checks the types of a snippet, or of a
// program. Nothing in it needs to be used.
func newChecker(t *testing.T) func(code string) error {
	fset := token.NewFileSet()
	packages := importer.ForCompiler(fset, "gc", exportData(t))
	return func(code string) error {
		if !strings.HasPrefix(code, "package ") {
			code = fmt.Sprintf(within, `"`+strings.Join(imports, "\"\n\t\"")+`"`, code)
		}
		file, err := parser.ParseFile(fset, "", code, 0)
		if err != nil {
			return err
		}
		var first error
		config := types.Config{Importer: packages, Error: func(err error) {
			if first == nil && !err.(types.Error).Soft { // soft: not used
				first = err
			}
		}}
		_, _ = config.Check("snippet", fset, []*ast.File{file}, nil)
		return first
	}
}

// exportData returns a function that finds what the compiler has written about a
// package.
func exportData(t *testing.T) importer.Lookup {
	args := append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, imports...)
	list, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for line := range strings.Lines(string(list)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}
