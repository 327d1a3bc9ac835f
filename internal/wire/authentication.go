package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// Authentication requests that are looked at.
const (
	authMD5          = 5
	authSASLContinue = 11
)

// maxIterations bounds the work that a server may ask for under SCRAM. lib/pq computes
// for as long as it is told to, and no context ends that: 2^31 iterations take many
// minutes. PostgreSQL's default is 4096.
const maxIterations = 1_000_000

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
		_, text, _ := bytes.Cut(data, []byte(",i="))
		text, _, _ = bytes.Cut(text, []byte(","))
		if n, err := strconv.Atoi(string(text)); err == nil && n > maxIterations {
			return &FrameError{Type: 'R', Reason: fmt.Sprintf("SCRAM with %d iterations, above the limit of %d", n, maxIterations)}
		}
	}
	return nil
}
