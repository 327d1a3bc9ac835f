// Package feed is a web page that shows the rows of a table as they are inserted.
package feed

import (
	"context"
	"database/sql"
	_ "embed"
	"io"
	"net/http"

	"github.com/pgnotify/pgnotify"
)

//go:embed page.html
var html string

// A Feed serves the page, a stream of entries for each browser that shows it, and the
// page's form. All browsers share one Listener, and so one session.
type Feed struct {
	db       *sql.DB
	listener *pgnotify.Listener
	mux      http.ServeMux
	guard    *http.CrossOriginProtection
	lose     func(context.Context) error
}

// New returns a Feed. A button of the page calls lose, which must end the listener's
// session and insert an entry before there is another one.
func New(db *sql.DB, listener *pgnotify.Listener, lose func(context.Context) error) *Feed {
	f := &Feed{db: db, listener: listener, guard: http.NewCrossOriginProtection(), lose: lose}
	f.mux.HandleFunc("GET /{$}", f.servePage)
	f.mux.HandleFunc("GET /events", f.serveEvents)
	f.mux.HandleFunc("POST /entries", f.insert)
	f.mux.HandleFunc("POST /lose", f.loseSession)
	return f
}

// ServeHTTP implements http.Handler.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.guard.Handler(&f.mux).ServeHTTP(w, r) // no other site may post
}

func (f *Feed) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; img-src data:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
	_, _ = io.WriteString(w, html)
}

// maxBody is more than 280 characters take.
const maxBody = 4096

func (f *Feed) insert(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = Insert(r.Context(), f.db, string(text))
	}
	answer(w, err)
}

func (f *Feed) loseSession(w http.ResponseWriter, r *http.Request) {
	answer(w, f.lose(r.Context()))
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, "it did not work", http.StatusInternalServerError) // the error is not for everybody
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
