package pgnotify

// A copyError is the error of a statement with a COPY that lib/pq does not support. The
// wire has refused it, and the session goes on.
type copyError struct{ err error }

func (e *copyError) Error() string { return e.err.Error() }

// Unwrap returns the server's error and [ErrNotSupported].
func (e *copyError) Unwrap() []error { return []error{e.err, ErrNotSupported} }
