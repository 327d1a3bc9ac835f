package transport_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a goroutine is left. It answers the look-ups of the tests,
// and keeps the certificates of whoever runs them out.
func TestMain(m *testing.M) {
	absent := filepath.Join(os.TempDir(), "pgnotify-no-home")
	os.Setenv("HOME", absent)
	os.Setenv("APPDATA", absent)
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dialNameServer}
	goleak.VerifyTestMain(m)
}

// names are the addresses that the name server knows.
var names = map[string][]string{
	"one.test":  {"127.0.0.1"},
	"many.test": {"127.0.0.1", "127.0.0.2", "127.0.0.1", "::1"},
}

var (
	deafNames sync.Map // name to the channel that is closed when its test ends
	deafCount atomic.Int64
)

// deafName returns a name for which there is no answer until the test ends. Go's
// resolver goes on for seconds after its caller has gone; hanging up ends it.
func deafName(t *testing.T) string {
	name := fmt.Sprintf("deaf%d.test", deafCount.Add(1))
	done := make(chan struct{})
	deafNames.Store(name, done)
	t.Cleanup(func() { close(done) })
	return name
}

// dialNameServer returns a connection to a name server, which serves it in a
// goroutine until it is closed. The resolver frames messages as over TCP,
// because the connection is not a net.PacketConn.
func dialNameServer(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
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
			answer := answerQuery(query)
			if answer == nil {
				return
			}
			server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	}()
	return client, nil
}

// answerQuery makes the answer to a DNS message with one question (RFC 1035), or
// nil to hang up.
func answerQuery(query []byte) []byte {
	const typeA, typeAAAA, notFound = 1, 28, 3
	var labels []string
	end := 12
	for query[end] != 0 {
		n := int(query[end])
		labels = append(labels, string(query[end+1:end+1+n]))
		end += 1 + n
	}
	kind := binary.BigEndian.Uint16(query[end+1:])
	question := query[12 : end+5]
	name := strings.ToLower(strings.Join(labels, "."))
	if done, ok := deafNames.Load(name); ok {
		<-done.(chan struct{})
		return nil
	}
	addresses, known := names[name]
	var records []byte
	count := 0
	for _, address := range addresses {
		ip := net.ParseIP(address)
		data := []byte(ip.To4())
		if (kind == typeAAAA) != (data == nil) || kind != typeA && kind != typeAAAA {
			continue
		}
		if data == nil {
			data = ip
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
	answer := append([]byte{query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, byte(count), 0, 0, 0, 0}, question...)
	return append(answer, records...)
}
