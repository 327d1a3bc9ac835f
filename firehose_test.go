package pgnotify_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// The firehose is a scripted server in a process of its own: LISTEN "fire_N" is
// acknowledged and followed by N notifications of 10 bytes each. It stands for a
// server that is always faster than the client, and its processor time is not
// counted as the client's.

const (
	firehoseRole    = "firehose"
	firehosePayload = "0123456789"
)

func init() { roles[firehoseRole] = runFirehose }

// startFirehose returns the DSN of a firehose that ends with the test.
func startFirehose(b testing.TB) (dsn string) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+firehoseRole)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // its end ends the firehose
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return "host=127.0.0.1 user=u dbname=d sslmode=disable port=" + strings.TrimSpace(port)
}

func runFirehose() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go spray(c)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// spray serves one client.
func spray(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	if _, err := readMessage(r); err != nil { // the start-up packet
		return
	}
	greeting := frame('R', "\x00\x00\x00\x00")
	greeting = append(greeting, frame('S', "server_version\x0017.0\x00")...)
	greeting = append(greeting, frame('S', "TimeZone\x00UTC\x00")...)
	greeting = append(greeting, frame('K', "\x00\x00\x00\x01\x00\x00\x00\x02")...)
	c.Write(append(greeting, frame('Z', "I")...))
	for {
		kind, err := r.ReadByte()
		if err != nil || kind == 'X' {
			return
		}
		query, err := readMessage(r)
		if err != nil {
			return
		}
		tag, _, _ := strings.Cut(strings.TrimRight(string(query), "\x00"), " ")
		answer := frame('C', strings.ToUpper(tag)+"\x00")
		if strings.Contains(string(query), "pg_backend_pid") {
			answer = append(answer, bytes.Join(backendFrames(1), nil)...)
		} else {
			answer = append(answer, frame('Z', "I")...)
		}
		c.Write(answer)
		if i := strings.LastIndex(string(query), "LISTEN"); i == 0 || i > 0 && query[i-1] == ';' {
			sprayNotifications(c, quoted(string(query[i:])))
		}
	}
}

// sprayNotifications sends as many as the name of the channel that is listened to
// says: over fire_N to itself, over start_NAME to NAME.
func sprayNotifications(c net.Conn, channel string) {
	name, started := strings.CutPrefix(channel, "start_")
	kind, count, _ := strings.Cut(name, "_")
	n, _ := strconv.Atoi(count)
	if !started && kind != "fire" {
		return
	}
	channel = name
	one := frame('A', "\x00\x00\x00\x07"+channel+"\x00"+firehosePayload+"\x00")
	const batch = 2048
	many := []byte(strings.Repeat(string(one), batch))
	for n > 0 {
		k := min(n, batch)
		if _, err := c.Write(many[:k*len(one)]); err != nil {
			return
		}
		n -= k
	}
}

// readMessage reads a message after its type byte.
func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

func frame(kind byte, body string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(b, body...)
}

// quoted returns what stands between double quotes.
func quoted(query string) string {
	_, rest, _ := strings.Cut(query, `"`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}
