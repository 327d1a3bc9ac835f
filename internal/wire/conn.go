package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgnotify/pgnotify/internal/transport"
)

// Conn is the connection that lib/pq speaks over. Its Read never returns a notification
// or a notice, and gives each ReadyForQuery in a Read of its own. lib/pq reads only when
// its buffer is empty, so it has taken the whole answer when it gets a ReadyForQuery:
// Clean and Unread are exact.
//
// A Conn is passive at first: Read reads the socket, on the goroutine that runs the
// query. While the session is idle, nothing is read and no buffer is held. Activate
// makes the Conn active: a goroutine of its own reads the socket until the end, so that
// everything the server sends is seen at once, and Read takes its bytes from memory.
//
// Read and Write are for lib/pq, which calls Read from one goroutine at a time. All
// other methods are safe for concurrent use, unless they say otherwise. The first error
// of the socket or of the protocol ends the session for good; Loss returns it.
type Conn struct {
	net       net.Conn // what the protocol is spoken over: TLS, or the socket
	notes     notes
	sent      atomic.Int64           // bytes written since BeginOperation
	delivered int64                  // bytes that Read has returned; for the caller of Read
	unread    atomic.Int32           // ReadyForQuery messages that lib/pq has still to take
	active    atomic.Pointer[reader] // nil while passive
	readMu    sync.Mutex             // serialises passive readers; guards scan until active
	scan      scanner

	names    *namer       // nil until a statement is prepared; for the caller of Write
	oneTx    bool         // see OneTransaction; for the caller of Write
	onWrite  func() error // see OnWrite; for the caller of Write
	writeMu  sync.Mutex   // held while something is written; guards writeErr
	writeErr error        // of the last write that failed

	leaving atomic.Bool // we are about to close the session

	loss   atomic.Pointer[Loss] // set once
	lostMu sync.Mutex           // guards lost
	lost   chan struct{}        // closed when loss is set; nil until somebody waits
}

var _ net.Conn = (*Conn)(nil)

// A Loss says how a session ended.
type Loss struct {
	Err   error     // io.EOF, the system's error, a *FrameError, net.ErrClosed
	Fatal *Response // the server's reason, if it gave one
	Error *Response // the server's error for the request under way, which may be Fatal
	Local bool      // Close or Abort was called
	Time  time.Time
}

// ErrServerEnded is the error of a session that the server ended with a FATAL
// message.
var ErrServerEnded = errors.New("the server ended the session")

// NewConn returns a passive connection over c, on which nothing has been said yet. It
// takes ownership of c. events receives what is taken out of the stream.
func NewConn(c net.Conn, events Events) *Conn {
	w := &Conn{net: c}
	w.notes.awaited.Store(1) // the start-up packet is answered like a request
	w.unread.Store(1)
	w.scan = scanner{notes: &w.notes, events: events, answer: answer{steps: &w.notes.steps}}
	return w
}

// lockScan gives the caller the scanner of a passive session until it unlocks readMu.
// For an active session it returns the reader, which owns the scanner for good.
func (c *Conn) lockScan() *reader {
	if r := c.active.Load(); r != nil {
		return r
	}
	c.readMu.Lock()
	r := c.active.Load()
	if r != nil {
		c.readMu.Unlock()
	}
	return r
}

// Read gives lib/pq its bytes.
func (c *Conn) Read(p []byte) (int, error) {
	if c.notes.flush.Load() == refused {
		c.sync()
	}
	n, err := c.read(p)
	c.delivered += int64(n)
	return n, err
}

func (c *Conn) read(p []byte) (int, error) {
	if r := c.lockScan(); r != nil {
		return c.readInbox(r.inbox, p)
	}
	defer c.readMu.Unlock()
	for {
		span, err := c.scan.next()
		if calls := c.scan.takeCalls(); calls != 0 {
			if err := c.call(calls); err != nil {
				return 0, err
			}
			continue
		}
		if len(span) > 0 {
			n := copy(p, span[:c.scan.beforeReady(len(span))])
			if ready := c.scan.take(n); ready {
				c.unread.Add(-1)
				c.settle()
			}
			return n, nil
		}
		if err == nil && !c.Unread() {
			err = errNothingAsked
		}
		if err == nil {
			if n := min(c.scan.direct(), len(p)); n >= bufSize/2 {
				return c.readDirect(p[:n])
			}
			err = c.fill()
		}
		if err != nil {
			return 0, c.lose(err)
		}
	}
}

func (c *Conn) readInbox(in *inbox, p []byte) (int, error) {
	n, ready, err := in.read(p, &c.unread)
	for err == errCall {
		if err = c.call(in.takeCalls()); err == nil {
			n, ready, err = in.read(p, &c.unread)
		}
	}
	if ready {
		c.unread.Add(-1)
	}
	if err == errNothingAsked {
		err = c.lose(err)
	}
	return n, err
}

// errNothingAsked ends a session on which lib/pq reads although nothing is to come. It
// would wait for ever.
var errNothingAsked error = &FrameError{Reason: "lib/pq expects more than the answer has"}

// fill reads the socket into the scanner's window.
func (c *Conn) fill() error {
	n, err := c.net.Read(c.scan.room())
	c.scan.filled(n)
	if n > 0 {
		return nil
	}
	return c.scan.broken(err)
}

// readDirect reads part of a large frame straight into lib/pq's memory.
func (c *Conn) readDirect(p []byte) (int, error) {
	n, err := c.net.Read(p)
	if bad := c.scan.passed(p[:n]); bad != nil {
		n, err = 0, bad
	}
	if n > 0 {
		return n, nil
	}
	return 0, c.lose(err)
}

// settle is called when an answer is complete. It takes out messages that came with the
// answer but belong to no request, and returns the buffer to its pool.
func (c *Conn) settle() {
	if _, err := c.scan.next(); err != nil {
		_ = c.lose(err)
	}
	if c.scan.empty() {
		c.scan.release()
	}
}

// errTooMuch ends a session over which more is asked at once than lib/pq ever asks.
var errTooMuch error = &FrameError{Reason: "lib/pq asks too much at once"}

// OnWrite makes the next Write call f once, before it sends anything. If f returns an
// error, Write returns it as though it had sent all, and sends nothing. OnWrite is for
// the goroutine that writes; f may be nil.
func (c *Conn) OnWrite(f func() error) { c.onWrite = f }

// Write sends lib/pq's messages. It sends nothing if the session is known to be lost.
func (c *Conn) Write(p []byte) (int, error) {
	if f := c.onWrite; f != nil {
		c.onWrite = nil
		if err := f(); err != nil {
			return len(p), err
		}
	}
	if loss := c.Loss(); loss != nil {
		return 0, loss.Err
	}
	if c.notes.status.Load() != 0 { // during start-up messages have other shapes
		flush, ok := c.expect(p)
		if !ok {
			return 0, c.lose(errTooMuch)
		}
		switch {
		case mayName(p) || c.names != nil && c.names.held != nil:
			return c.writeNamed(p, flush)
		case flush:
			return c.writeFlush(p)
		}
	}
	n, err := c.write(p)
	c.sent.Add(int64(n))
	switch {
	case err != nil && c.leaving.Load():
		err = c.lose(err) // why the server has gone, nobody asks any more
	case err != nil:
		err = c.lastWords(err)
	}
	return n, err
}

func (c *Conn) write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n, err := c.net.Write(p)
	if err != nil {
		c.writeErr = err
	}
	return n, err
}

// silence replaces the end of the stream that a read has found, by the error of a write
// that failed because nothing was heard from the server, if there is one: the system
// reports a socket's error once, and after that only the end. A write that is under way
// gets a moment to fail.
func (c *Conn) silence(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	_ = c.net.SetWriteDeadline(time.Now().Add(lastWordsTime))
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if transport.IsSilence(c.writeErr) && !errors.Is(c.writeErr, os.ErrDeadlineExceeded) {
		return c.writeErr
	}
	return err
}

// lastWordsTime bounds how long a failed write looks for the server's reason.
const lastWordsTime = 100 * time.Millisecond

// lastWords ends the session because a write failed, and returns what lose returns.
// First it reads what the server sent before it stopped listening: its FATAL message
// may still be in the socket.
func (c *Conn) lastWords(writeErr error) error {
	if !c.tryLockScan() {
		select {
		case <-c.Lost(): // whoever reads has found it
		case <-time.After(lastWordsTime):
		}
		return c.lose(writeErr)
	}
	defer c.readMu.Unlock()
	_ = c.net.SetReadDeadline(time.Now().Add(lastWordsTime))
	for {
		span, err := c.scan.next()
		c.scan.take(len(span))
		if err == nil && len(span) == 0 {
			err = c.fill()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = writeErr
		}
		if err != nil {
			return c.lose(c.silence(err))
		}
	}
}

// CatchUp reads what has arrived on a passive, idle session: notices, changed
// parameters, the server's last words, the end. It waits for no more than about a
// millisecond.
func (c *Conn) CatchUp() {
	if c.Busy() || c.lockScan() != nil { // may wait: whoever has the lock may have looked too early
		return
	}
	defer c.readMu.Unlock()
	for {
		span, err := c.scan.next()
		if len(span) > 0 { // a request has begun, and its answer is for Read
			break
		}
		if err == nil {
			err = c.look()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			_ = c.lose(err)
			return
		}
	}
	_ = c.net.SetReadDeadline(time.Time{})
	c.CheckFatal()
	if c.scan.empty() {
		c.scan.release()
	}
}

// tryLockScan is lockScan without waiting. It also fails while another goroutine reads.
func (c *Conn) tryLockScan() bool {
	if c.active.Load() != nil || !c.readMu.TryLock() {
		return false
	}
	if c.active.Load() != nil {
		c.readMu.Unlock()
		return false
	}
	return true
}

// lose ends the session because of err, and returns the error that ended it: that of an
// earlier call, if there was one.
func (c *Conn) lose(err error) error { return c.end(err, false) }

func (c *Conn) end(err error, local bool) error {
	loss := &Loss{Err: err, Fatal: c.notes.lastWords(), Error: c.notes.failure.Load(), Local: local || c.leaving.Load(), Time: time.Now()}
	if c.loss.CompareAndSwap(nil, loss) {
		c.lostMu.Lock()
		if c.lost != nil {
			close(c.lost)
		}
		c.lostMu.Unlock()
		c.scan.events.Lost()
		_ = c.net.Close()
	}
	err = c.loss.Load().Err
	if r := c.active.Load(); r != nil {
		r.inbox.close(err)
	}
	return err
}

// Leave says that the session is about to be closed from our side. The loss then counts
// as local even if the server, which is told, is faster.
func (c *Conn) Leave() { c.leaving.Store(true) }

// Close ends the session from our side and waits for the goroutine that reads,
// if there is one. It may be called more than once.
func (c *Conn) Close() error {
	_ = c.end(net.ErrClosed, true)
	if r := c.active.Load(); r != nil {
		<-r.done
	}
	return nil
}

// Abort ends the session because of err, which Loss then returns, without waiting.
func (c *Conn) Abort(err error) { _ = c.end(err, true) }

// Loss returns how the session ended, nil while it lives.
func (c *Conn) Loss() *Loss { return c.loss.Load() }

// Lost returns a channel that is closed when the session has ended.
func (c *Conn) Lost() <-chan struct{} {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	if c.loss.Load() != nil {
		return over
	}
	if c.lost == nil {
		c.lost = make(chan struct{})
	}
	return c.lost
}

// over is the closed channel that Lost returns once the session has ended.
var over = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// CheckFatal ends the session if the server has said that it is over; lib/pq
// stops reading there.
func (c *Conn) CheckFatal() {
	if c.notes.fatal.Load() != nil && c.Loss() == nil {
		_ = c.lose(ErrServerEnded)
	}
}

// BeginOperation sets the count of sent bytes to zero.
func (c *Conn) BeginOperation() {
	c.sent.Store(0)
	c.oneTx = false
	if c.notes.bound.Load() {
		c.notes.bound.Store(false)
	}
	if c.notes.columns.Load() != 0 {
		c.notes.columns.Store(0)
	}
	if c.notes.refused.Load() {
		c.notes.refused.Store(false)
	}
	if c.notes.wantsCopy.Load() {
		c.notes.wantsCopy.Store(false)
	}
	if c.notes.unwanted.Load() {
		c.notes.unwanted.Store(false)
	}
}

// Sent returns how many bytes of the operation have reached the socket.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Columns returns how many columns the rows have that have come for the prepared statement
// of the operation; ok is false if none have come.
func (c *Conn) Columns() (n int, ok bool) {
	columns := c.notes.columns.Load()
	return int(columns) - 1, columns > 0
}

// Delivered returns how many bytes Read has returned so far. It must not be called
// concurrently with Read.
func (c *Conn) Delivered() int64 { return c.delivered }

// Busy reports whether the server still owes an answer.
func (c *Conn) Busy() bool { return c.notes.awaited.Load() != 0 }

// Status returns the transaction status of the last ReadyForQuery: 'I', 'T' or
// 'E', and 0 before the first.
func (c *Conn) Status() byte { return byte(c.notes.status.Load()) }

// Listened reports whether a LISTEN has taken effect on the session, or may
// have.
func (c *Conn) Listened() bool { return c.notes.listened.Load() }

// Listens returns how many LISTENs and UNLISTENs the server has completed. Those of one
// request without BEGIN are one transaction, which is committed when the last of them is
// completed. Notifications that came before one are handed over before it counts.
func (c *Conn) Listens() uint32 { return c.notes.listens.Load() }

// Undone reports whether the last transaction was rolled back, or its last
// statement failed outside of one.
func (c *Conn) Undone() bool { return c.notes.undone.Load() }

// Backend returns the process id and the cancel key of the server's process.
// The key must not be changed.
func (c *Conn) Backend() (pid uint32, key []byte) { return c.notes.backend() }

// Parameter returns a run-time parameter that the server reports.
func (c *Conn) Parameter(name string) (string, bool) { return c.notes.parameter(name) }

// Unread reports whether lib/pq has still to take some of what answers its requests.
func (c *Conn) Unread() bool { return c.unread.Load() != 0 }

// Clean reports whether the session is alive, lib/pq has taken the whole answer to each
// of its requests, and nothing else was read in part. It must not be called during a
// request of lib/pq.
func (c *Conn) Clean() bool {
	if c.Busy() || c.Unread() || c.Loss() != nil {
		return false
	}
	if c.lockScan() != nil {
		return true
	}
	defer c.readMu.Unlock()
	return c.scan.empty()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.net.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// SetDeadline implements net.Conn; it is for a passive session.
func (c *Conn) SetDeadline(t time.Time) error { return c.net.SetDeadline(t) }

// SetReadDeadline implements net.Conn; it is for a passive session.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.net.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.net.SetWriteDeadline(t) }
