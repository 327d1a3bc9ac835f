package docs_test

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root       = ".."
	guarantees = "guarantees.md"
	promises   = 11
)

// pages are those of this folder, and the README, with the text of each.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, name := range append(names, filepath.Join(root, "README.md")) {
		texts[name] = readFile(t, name)
	}
	return texts
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// testName matches a test as a page names it: wire.TestClose, or TestPing where
// there is no need for the package. testFunc matches it in the source.
var (
	testName = regexp.MustCompile(`\b(?:(\w+)\.)?((?:Test|Benchmark|Fuzz)[A-Z]\w*)`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)[A-Z]\w*)\(`)
)

// tests returns the folders of the tests of the repository, by name, with those
// of nested modules. A folder is the last element of its path, pgnotify for the
// root.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	folders := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		folder := "pgnotify"
		if dir := filepath.Dir(path); dir != root {
			folder = filepath.Base(dir)
		}
		for _, found := range testFunc.FindAllStringSubmatch(readFile(t, path), -1) {
			folders[found[1]] = append(folders[found[1]], folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return folders
}

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	exist := tests(t)
	for page, text := range pages(t) {
		for _, named := range testName.FindAllStringSubmatch(text, -1) {
			folders := exist[named[2]]
			// Without a folder the guarantees speak of the root's tests.
			if folder := named[1]; folder == "" && page == guarantees {
				named[1] = "pgnotify"
			}
			if len(folders) == 0 || named[1] != "" && !slices.Contains(folders, named[1]) {
				t.Errorf("%s names %s, which is in %q", page, named[0], folders)
			}
		}
	}
}

func TestEachPromiseNamesATest(t *testing.T) {
	t.Parallel()
	sections := strings.Split(readFile(t, guarantees), "\n## ")[1:]
	for n := 1; n <= promises; n++ {
		prefix := strconv.Itoa(n) + ". "
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, prefix) })
		if i < 0 {
			t.Errorf("promise %d is missing", n)
			continue
		}
		if _, list, _ := strings.Cut(sections[i], "**Tests.**"); !testName.MatchString(list) {
			t.Errorf("promise %d names no test", n)
		}
	}
}

// runFlag is a command for some of the root's tests.
var runFlag = regexp.MustCompile(`(?m)^    go test .*-(?:run|bench) '([^'^$]+)'.* \.(?: |$)`)

func TestCommandsRunSomething(t *testing.T) {
	t.Parallel()
	exist := tests(t)
	for page, text := range pages(t) {
		for _, command := range runFlag.FindAllStringSubmatch(text, -1) {
			for _, part := range strings.Split(command[1], "|") {
				pattern := regexp.MustCompile(part)
				found := false
				for name, folders := range exist {
					found = found || slices.Contains(folders, "pgnotify") && pattern.MatchString(name)
				}
				if !found {
					t.Errorf("%s: %s: no test matches %q", page, strings.TrimSpace(command[0]), part)
				}
			}
		}
	}
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan    = regexp.MustCompile("`([^`\n]+)`")
	link        = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	sourceFile  = regexp.MustCompile(`^[\w./-]+\.(?:go|md|mod|sum)$`)
	pathLike    = regexp.MustCompile(`^[\w.-]+/[\w./-]*$`)
)

func TestNamedFilesExist(t *testing.T) {
	t.Parallel()
	for page, text := range pages(t) {
		text = fencedBlock.ReplaceAllString(text, "")
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(found[1], "#")
			if !strings.Contains(target, "://") && !exists(filepath.Dir(page), target) {
				t.Errorf("%s links to %s", page, found[1])
			}
		}
		for _, found := range codeSpan.FindAllStringSubmatch(text, -1) {
			// In the text a path begins at the root, or at the page.
			if isPath(found[1]) && !exists(root, found[1]) && !exists(filepath.Dir(page), found[1]) {
				t.Errorf("%s names %s", page, found[1])
			}
		}
	}
}

// isPath tells paths in the repository from those of packages, such as log/slog.
func isPath(text string) bool {
	top, _, _ := strings.Cut(text, "/")
	return sourceFile.MatchString(text) || pathLike.MatchString(text) && exists(root, top)
}

func exists(folder, name string) bool {
	_, err := os.Stat(filepath.Join(folder, cmp.Or(name, ".")))
	return err == nil
}

var (
	lostRow  = regexp.MustCompile(`(?m)^\| by .*\| (\d) \| (\d) \| (\d) \|$`)
	lostCase = regexp.MustCompile(`"pgnotify": (\d), "postgres": (\d), "pgx": (\d)`)
)

// The numbers about other drivers are those that compat's test measures.
func TestTableOfLostAnswers(t *testing.T) {
	t.Parallel()
	told := lostRow.FindAllStringSubmatch(readFile(t, guarantees), -1)
	source := readFile(t, filepath.Join(root, "compat", "lost_test.go"))
	measured := lostCase.FindAllStringSubmatch(source, -1)
	if len(told) != len(measured) || len(told) == 0 {
		t.Fatalf("%d cases are told, %d are measured", len(told), len(measured))
	}
	for i := range told {
		if !slices.Equal(told[i][1:], measured[i][1:]) {
			t.Errorf("%s; measured are %q", told[i][0], measured[i][1:])
		}
	}
}
