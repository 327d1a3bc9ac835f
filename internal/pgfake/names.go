package pgfake

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Names is a name server for [net.DefaultResolver]. Of the names below .test and
// .invalid, only those exist that tests have added; queries for other names are
// forwarded. It is safe for concurrent use.
type Names struct {
	mu    sync.Mutex // guards the fields below
	added int
	known map[string][]string      // addresses of a name
	deaf  map[string]chan struct{} // closed when the name's test ends
	asked map[string]int
}

// NewNames returns a name server that knows some names already.
func NewNames(known map[string][]string) *Names {
	n := &Names{known: make(map[string][]string), deaf: make(map[string]chan struct{}), asked: make(map[string]int)}
	for name, addresses := range known {
		n.known[name] = addresses
	}
	return n
}

// Add returns a new name for the addresses.
func (n *Names) Add(addresses ...string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.added++
	name := fmt.Sprintf("name%d.test", n.added)
	n.known[name] = addresses
	return name
}

// Deaf returns a new name whose queries are not answered until the test ends. Go's
// resolver goes on for seconds after its caller has gone; hanging up ends it.
func (n *Names) Deaf(t testing.TB) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.added++
	name := fmt.Sprintf("deaf%d.test", n.added)
	done := make(chan struct{})
	n.deaf[name] = done
	t.Cleanup(func() { close(done) })
	return name
}

// Asked returns how many queries for a name have come. One look-up makes several, for
// the kinds of addresses.
func (n *Names) Asked(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[name]
}

// Resolver returns a resolver that asks n, after the system's file of hosts.
func (n *Names) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: n.dial}
}

// dial returns a connection to n, which is served in a goroutine until it is
// closed. The resolver frames messages as over TCP, because the connection is
// not a net.PacketConn.
func (n *Names) dial(_ context.Context, _, real string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() { // ends when the resolver closes its side
		defer server.Close()
		for {
			var size [2]byte
			if _, err := io.ReadFull(server, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(server, query); err != nil {
				return
			}
			var answer []byte
			if name, _ := cutName(query); isOurs(name) {
				answer = n.answer(query)
			} else {
				answer = passOn(query, real)
			}
			if answer == nil {
				return
			}
			if _, err := server.Write([]byte(half(uint16(len(answer))) + string(answer))); err != nil {
				return
			}
		}
	}()
	return client, nil
}

// isOurs reports whether a name, perhaps with a domain that the system searches,
// is one that is reserved for tests.
func isOurs(name string) bool {
	labels := strings.Split(name, ".")
	return slices.Contains(labels, "test") || slices.Contains(labels, "invalid")
}

// passOn asks the name server that was meant. It returns nil if there is no answer.
func passOn(query []byte, server string) []byte {
	conn, err := net.DialTimeout("udp", server, passOnWait)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(passOnWait))
	answer := make([]byte, 1<<16-1)
	if _, err = conn.Write(query); err != nil {
		return nil
	}
	size, err := conn.Read(answer)
	if err != nil {
		return nil
	}
	return answer[:size]
}

// passOnWait is how long the real name server may take.
const passOnWait = 5 * time.Second

// answer makes the answer to a DNS message with one question (RFC 1035), or nil
// to hang up.
func (n *Names) answer(query []byte) []byte {
	const typeA, typeAAAA, notFound = 1, 28, 3
	name, end := cutName(query)
	addresses, known, deaf := n.ask(name)
	if deaf != nil {
		<-deaf
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end:])
	var records []byte
	count := 0
	for _, address := range addresses {
		ip := net.ParseIP(address)
		data, typ := []byte(ip.To4()), uint16(typeA)
		if data == nil {
			data, typ = ip, typeAAAA
		}
		if typ != kind {
			continue
		}
		records = append(records, 0xc0, 12) // the name is the question's
		records = binary.BigEndian.AppendUint16(records, kind)
		records = append(records, 0, 1, 0, 0, 0, 60, 0, byte(len(data)))
		records = append(records, data...)
		count++
	}
	code := byte(0)
	if !known {
		code = notFound
	}
	answer := append([]byte{query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, byte(count), 0, 0, 0, 0}, query[12:end+4]...)
	return append(answer, records...)
}

// ask counts a query.
func (n *Names) ask(name string) (addresses []string, known bool, deaf chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[name]++
	addresses, known = n.known[name]
	return addresses, known, n.deaf[name]
}

// cutName returns the name that a DNS message asks for, and where it ends.
func cutName(query []byte) (name string, end int) {
	var labels []string
	end = 12
	for query[end] != 0 {
		next := end + 1 + int(query[end])
		labels = append(labels, string(query[end+1:next]))
		end = next
	}
	return strings.ToLower(strings.Join(labels, ".")), end + 1
}
