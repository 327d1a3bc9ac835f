package faultproxy

// A Fault says which answer is lost, and how. The zero value ends the connection in
// place of the answer to the next request.
type Fault struct {
	// Match is text that the request contains; empty means any request. Under TLS no
	// text can be found.
	Match string

	// Skip is how many requests of the session are answered first, counted from the one
	// that matches. lib/pq makes two requests of a statement with arguments.
	Skip int

	// Keep is how many bytes of the answer reach the client. A negative number
	// is counted from the end of what the server has sent so far.
	Keep int

	// Reset makes the client see a reset, and not just the end of the connection.
	Reset bool

	// Hold delays the fault until it is closed; otherwise the fault happens as soon as
	// the server has sent something. It is for an answer in several pieces, of which
	// the first does not mean that the statement is done. Nil: no delay.
	Hold <-chan struct{}

	// Unsent keeps the request from the server, so there is no answer to lose.
	Unsent bool

	// Repeat breaks each session with a matching request, not only the first.
	Repeat bool
}

// cut returns what the client gets of an answer.
func (f *Fault) cut(answer []byte) []byte {
	n := f.Keep
	if n < 0 {
		n += len(answer)
	}
	return answer[:max(0, min(n, len(answer)))]
}
