package pgnotify

import (
	"errors"

	"github.com/lib/pq"
)

// locate gives the error of a kept statement its query, as lib/pq does for a query that
// it prepares each time: with it, Error and ErrorWithDetail tell the position in the
// query. Only lib/pq can set it, and does so for whatever error a Write for a query
// returns.
func (s *session) locate(err error, query string) error {
	var server *pq.Error
	if errors.As(err, &server) && !server.Fatal() {
		s.wire.OnWrite(func() error { return server })
		_, _ = s.pq.PrepareContext(background, query)
		s.wire.OnWrite(nil) // if lib/pq did not get that far
	}
	return err
}
