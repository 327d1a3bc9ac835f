package browsertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// flags keep Chromium from all that is not this page.
var flags = []chromedp.ExecAllocatorOption{
	chromedp.NoFirstRun,
	chromedp.NoDefaultBrowserCheck,
	chromedp.Headless,
	chromedp.DisableGPU,
	chromedp.Flag("disable-quic", true),
	chromedp.Flag("disable-background-networking", true),
	chromedp.Flag("disable-component-update", true),
	chromedp.Flag("disable-sync", true),
	chromedp.WindowSize(900, 900),
}

// findChromium returns the path of a browser.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "there is no Chromium (Debian: apt-get install chromium)")
	return ""
}

// A tab is a page in a browser of its own.
type tab struct {
	t   *testing.T
	ctx context.Context // the browser lives as long

	mu       sync.Mutex // guards problems
	problems []string   // what the browser complains of
}

func openTab(t *testing.T, chromium, url string) *tab {
	t.Helper()
	options := append(slices.Clone(flags), chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()))
	if os.Geteuid() == 0 { // root cannot have the sandbox
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel) // waits until the browser has ended
	b := &tab{t: t, ctx: ctx}
	check(t, chromedp.Listen(ctx, b.listen)) // starts the browser
	b.run(chromedp.Navigate(url))
	return b
}

// listen keeps what went wrong in the page.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, fmt.Sprintf("%s: %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *cdplog.EventEntryAdded:
		b.problems = append(b.problems, fmt.Sprintf("%v: %s", e.Entry.Level, e.Entry.Text))
	}
}

func (b *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	check(b.t, chromedp.Do(ctx, steps...))
}

// await waits until an element is there.
func (b *tab) await(selector chromedp.CSS) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.WaitVisible(selector)); err != nil {
		html, _ := chromedp.Run(b.ctx, chromedp.OuterHTML(chromedp.CSS("main")))
		b.t.Fatalf("%s: %v, in\n%s", selector, err, html)
	}
}

// readList returns what the page lists.
var readList = chromedp.Evaluate[[]string](`[...document.querySelectorAll("#entries li")].map(li => li.className + ": " +
	(li.dataset.id ? li.dataset.id + " " + li.querySelector("span").textContent : li.textContent))`)

// checkList compares the list in the page, of which the newest comes first.
func (b *tab) checkList(want ...string) {
	b.t.Helper()
	got, err := chromedp.Run(b.ctx, readList)
	check(b.t, err)
	if !slices.Equal(got, want) {
		b.t.Errorf("the page lists\n\t%s\nnot\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// stillness ends when nothing in the page moves.
var stillness = chromedp.Evaluate[int](`Promise.all(document.getAnimations().map(a => a.finished)).then(all => all.length)`,
	chromedp.EvalAwaitPromise)

// screenshot writes what is to be seen into a file, and makes sure that it is
// something. PGNOTIFY_SCREENSHOTS names a folder for people who want to look.
func (b *tab) screenshot(name string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, stillness)
	check(b.t, err)
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	check(b.t, err)
	folder := os.Getenv("PGNOTIFY_SCREENSHOTS")
	if folder == "" {
		folder = b.t.TempDir()
	}
	check(b.t, os.WriteFile(filepath.Join(folder, name+".png"), png, 0o644))
	if len(png) < 5000 {
		b.t.Errorf("a screenshot of %d bytes shows nothing", len(png))
	}
}

func (b *tab) checkNoProblems() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) > 0 {
		b.t.Errorf("the browser complains:\n\t%s", strings.Join(b.problems, "\n\t"))
	}
}
