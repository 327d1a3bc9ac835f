package wire_test

import (
	"encoding/binary"
	"strings"
	"sync"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// A frame is one message, as bytes.
type frame []byte

func newFrame(typ byte, body ...string) frame {
	b := strings.Join(body, "")
	f := binary.BigEndian.AppendUint32([]byte{typ}, uint32(len(b)+4))
	return append(f, b...)
}

// header is a frame of which there is no more.
func header(typ byte, length uint32) frame {
	return binary.BigEndian.AppendUint32([]byte{typ}, length)
}

func join(frames ...frame) []byte {
	var b []byte
	for _, f := range frames {
		b = append(b, f...)
	}
	return b
}

func uint32s(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// Messages of the server.
var (
	authOK    = newFrame('R', uint32s(0))
	key       = newFrame('K', uint32s(4711), "1234")
	idle      = newFrame('Z', "I")
	inTx      = newFrame('Z', "T")
	failedTx  = newFrame('Z', "E")
	rowDesc   = newFrame('T', "\x00\x01", "x\x00", uint32s(0), "\x00\x00", uint32s(25), "\xff\xff", uint32s(0xffffffff), "\x00\x00")
	parsed    = newFrame('1')
	bound     = newFrame('2')
	noData    = newFrame('n')
	noParams  = newFrame('t', "\x00\x00")
	noQuery   = newFrame('I')
	copyIn    = newFrame('G', "\x00\x00\x01\x00\x00")
	syntaxErr = report('E', "SERROR", "VERROR", "C42601", "Msyntax error")
	killed    = report('E', "SFATAL", "VFATAL", "C57P01", "Mterminating connection due to administrator command")

	crash      = report('N', "SWARNING", "VWARNING", "C57P02", "Mterminating connection because of crash of another server process")
	lostServer = report('E', "SFATAL", "C08P01", "Mserver conn crashed?") // as PgBouncer says it
)

func tag(s string) frame { return newFrame('C', s, "\x00") }

func param(name, value string) frame { return newFrame('S', name, "\x00", value, "\x00") }

func note(channel, payload string) frame {
	return newFrame('A', uint32s(42), channel, "\x00", payload, "\x00")
}

// report is an ErrorResponse or a NoticeResponse; a field is its type and its
// value.
func report(typ byte, fields ...string) frame {
	return newFrame(typ, strings.Join(fields, "\x00"), "\x00\x00")
}

func notice(text string) frame {
	return report('N', "SNOTICE", "VNOTICE", "C00000", "M"+text, "R"+"exec_stmt_raise")
}

func row(value string) frame {
	return newFrame('D', "\x00\x01", uint32s(uint32(len(value))), value)
}

// greeting is the answer to a start-up packet.
func greeting() []frame {
	return []frame{authOK, param("server_version", "15.18"), param("TimeZone", "UTC"), key, idle}
}

// query is a request of the client.
func query(sql string) []byte { return newFrame('Q', sql, "\x00") }

// Parts of an extended query.
var (
	parseAsked   = newFrame('P', "\x00SELECT\x00\x00\x00")
	bindAsked    = newFrame('B', "\x00\x00\x00\x00\x00\x00\x00\x00")
	executeAsked = newFrame('E', "\x00\x00\x00\x00\x00")
)

// startupPacket stands for one; the wire does not look at it.
var startupPacket = []byte("\x00\x00\x00\x08\x00\x03\x00\x00")

// events records what is taken out of a stream.
type events struct {
	mu   sync.Mutex
	list []string
	some chan struct{} // has a token after something was added
}

func newEvents() *events { return &events{some: make(chan struct{}, 1)} }

func (e *events) add(s string) {
	e.mu.Lock()
	e.list = append(e.list, s)
	e.mu.Unlock()
	select {
	case e.some <- struct{}{}:
	default:
	}
}

func (e *events) Notifications(batch []wire.Notification) []wire.Notification {
	for _, n := range batch {
		e.add("A " + n.Channel + " " + n.Payload)
	}
	return batch[:0]
}

func (e *events) Notice(r *wire.Response) { e.add("N " + r.Message) }

func (e *events) Excess() { e.add("excess") }

func (e *events) Lost() {}

func (e *events) snapshot() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.list...)
}

// nobody hears nothing.
type nobody struct{}

func (nobody) Notifications(batch []wire.Notification) []wire.Notification { return batch[:0] }
func (nobody) Notice(*wire.Response)                                       {}
func (nobody) Excess()                                                     {}
func (nobody) Lost()                                                       {}
