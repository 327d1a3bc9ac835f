package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Authentication requests that are looked at.
const (
	authOK           = 0
	authMD5          = 5
	authSASLContinue = 11
)

// maxIterations bounds the work that a server may ask for under SCRAM. lib/pq computes
// for as long as it is told to, and no context ends that: 2^31 iterations take many
// minutes. PostgreSQL's default is 4096.
const maxIterations = 1_000_000

// authentication notes that the client is authenticated, or checks what is asked of it.
func (s *scanner) authentication(body []byte) error {
	if len(body) == 4 && binary.BigEndian.Uint32(body) == authOK {
		s.notes.authenticated.Store(true)
	}
	return checkAuthentication(body)
}

// checkAuthentication refuses requests on which lib/pq would panic or compute without
// end.
func checkAuthentication(body []byte) error {
	if len(body) < 4 {
		return &FrameError{Type: 'R', Reason: "it has no code"}
	}
	switch data := body[4:]; binary.BigEndian.Uint32(body) {
	case authMD5:
		if len(data) < 4 {
			return &FrameError{Type: 'R', Reason: "MD5 without salt"}
		}
	case authSASLContinue:
		return checkIterations(data)
	}
	return nil
}

// checkIterations checks the number of iterations in the server's first message of
// SCRAM. lib/pq takes any number there, and computes one iteration for those below 1.
func checkIterations(message []byte) error {
	var count []byte
	found := 0
	for field := range bytes.SplitSeq(message, []byte(",")) {
		if value, ok := bytes.CutPrefix(field, []byte("i=")); ok {
			count = value
			found++
		}
	}
	n, err := strconv.Atoi(string(count))
	switch {
	case found != 1:
		return &FrameError{Type: 'R', Reason: fmt.Sprintf("SCRAM with %d counts of iterations", found)}
	case errors.Is(err, strconv.ErrRange) || n > maxIterations:
		return &FrameError{Type: 'R', Reason: fmt.Sprintf("SCRAM with more than %d iterations", maxIterations)}
	case n < 1 || strconv.Itoa(n) != string(count):
		return &FrameError{Type: 'R', Reason: "SCRAM whose number of iterations is not a plain positive number"}
	}
	return nil
}
