package browsertest

import (
	"context"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/pgnotify/pgnotify"
)

// The page shows each row once: what was there, what comes, and what came while the
// listener was away.
func TestLive(t *testing.T) {
	chromium := findChromium(t)
	s := newSite(t, startServer(t))
	s.insert("was there")
	b := openTab(t, chromium, s.URL)
	b.await(`#state.open`)
	b.await(`li[data-id="1"].history`)

	s.insert("<b>comes</b>") // it is text, not HTML
	b.await(`li[data-id="2"].live`)
	b.run(
		chromedp.SendKeys(chromedp.CSS("form input"), "from the form"),
		chromedp.Click(chromedp.CSS("form button")),
	)
	b.await(`li[data-id="3"].live`)
	check(t, pgnotify.Notify(t.Context(), s.db, "pgnotify_live", "somebody else's")) // no entry
	b.checkList("live: 3 from the form", "live: 2 <b>comes</b>", "history: 1 was there")

	comeIn, err := s.cut(t.Context())
	check(t, err)
	s.insert("missed")
	s.insert("missed, too")
	b.checkList("live: 3 from the form", "live: 2 <b>comes</b>", "history: 1 was there")
	comeIn()
	b.await(`li[data-id="5"].history`)
	s.insert("comes again")
	b.await(`li[data-id="6"].live`)
	b.run(chromedp.Click(chromedp.CSS("#lose")))
	b.await(`li[data-id="7"].history`)
	b.checkList(
		"history: 7 missed because of the button",
		"gap: the session was lost, and is replaced",
		"live: 6 comes again", "history: 5 missed, too", "history: 4 missed",
		"gap: the session was lost, and is replaced",
		"live: 3 from the form", "live: 2 <b>comes</b>", "history: 1 was there",
	)
	b.screenshot("live")
	_, err = chromedp.Run(b.ctx, dark)
	check(t, err)
	b.screenshot("live-dark")
	b.checkNoProblems()
}

// A browser that has lost its connection comes again by itself, says what it has, and
// gets what it has not.
func TestBrowserComesAgain(t *testing.T) {
	chromium := findChromium(t)
	s := newSite(t, startServer(t))
	s.insert("was there")
	b := openTab(t, chromium, s.URL)
	b.await(`li[data-id="1"].history`)
	s.CloseClientConnections()
	s.insert("missed")
	b.await(`li[data-id="2"].history`)
	s.insert("comes")
	b.await(`li[data-id="3"].live`)
	b.checkList("live: 3 comes", "history: 2 missed", "history: 1 was there")
}

// dark has the browser want dark pages.
func dark(ctx context.Context, target *chromedp.Target) (cdp.Empty, error) {
	return cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
}
