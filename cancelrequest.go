package pgnotify

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/pgnotify/pgnotify/internal/awake"
	"github.com/pgnotify/pgnotify/internal/transport"
)

// cancelRequestCode takes the place of the protocol version in a start-up packet:
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
const cancelRequestCode = 1234<<16 | 5678

// A cancelRequest is a connection that carries a cancel request. Until the server has
// closed it, the server may still send its process the signal, which would hit whatever
// the session then runs.
type cancelRequest struct {
	link *transport.Conn
	over chan struct{} // closed when the server has closed the connection
	err  error         // of sending; read it once over is closed
	late chan struct{} // closed when that takes too long
	stop func()        // of what closes it
	next *cancelRequest
}

// dialCancel connects to the session's server, at the same address and under the same
// TLS.
func (s *session) dialCancel(ctx context.Context) (*cancelRequest, error) {
	if _, key := s.wire.Backend(); len(key) == 0 {
		return nil, fmt.Errorf("%w: the server gave no key to cancel with", ErrNotSupported)
	}
	link, err := s.link.Route.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &cancelRequest{link: link, over: make(chan struct{}), late: make(chan struct{})}, nil
}

// cancelPacket returns the request for a server process. Its key has 4 bytes, or up to
// 256 since protocol 3.2.
func cancelPacket(pid uint32, key []byte) []byte {
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	packet = binary.BigEndian.AppendUint32(packet, cancelRequestCode)
	packet = binary.BigEndian.AppendUint32(packet, pid)
	return append(packet, key...)
}

// send starts sending the request; wait and close tell how it ended. Its goroutine ends
// with the connection, at the latest by close, which joins it.
func (r *cancelRequest) send(packet []byte, patience time.Duration) {
	r.stop = awake.AfterSilence(patience, nil, func() { close(r.late) })
	go func() {
		defer close(r.over)
		if _, r.err = r.link.Write(packet); r.err == nil {
			_, _ = io.Copy(io.Discard, r.link) // however the server closes it
		}
	}()
}

// wait returns when the request can have no further effect, or when ctx ends.
func (r *cancelRequest) wait(ctx context.Context) error {
	select {
	case <-r.over:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// taken waits until the request can have no further effect, and reports whether that
// came in time.
func (r *cancelRequest) taken() bool {
	select {
	case <-r.over:
		return true
	default:
	}
	select {
	case <-r.over:
		return true
	case <-r.late:
		return false
	}
}

// close gives the request up, after send.
func (r *cancelRequest) close() {
	r.stop()
	_ = r.link.Abort()
	<-r.over
}
