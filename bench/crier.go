package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

// crierFlag has this program be a crier: a server that acknowledges every
// statement, and sends what it is told to over its standard input to the sessions
// that listen. It does not look at the channels that they listen to.
const crierFlag = "-be-a-crier"

// A cry is a number of notifications, over so many channels in turn, with a
// payload of so many bytes.
type cry struct {
	Count, Size, Channels int
	Prefix                string // of the channels' names
}

// The commands that a crier understands.
const (
	cryCommand    = "cry %d %d %d %s\n"
	hangUpCommand = "hang-up\n" // close the sessions that listen
	countCommand  = "count\n"   // answer how many Query messages came since then
)

// channelNames returns those of a cry.
func channelNames(prefix string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s_%05d", prefix, i)
	}
	return names
}

// payload returns one of so many bytes.
func payload(size int) string { return strings.Repeat("0123456789", size/10+1)[:size] }

// A crier is one of another process.
type crier struct{ *child }

func startCrier(ctx context.Context) (*crier, error) {
	c, err := startChild(ctx, crierFlag)
	if err != nil {
		return nil, err
	}
	return &crier{c}, nil
}

// cry returns before all of it is sent.
func (c *crier) cry(what cry) error {
	_, err := fmt.Fprintf(c.stdin, cryCommand, what.Count, what.Size, what.Channels, what.Prefix)
	return err
}

func (c *crier) hangUp() error {
	_, err := io.WriteString(c.stdin, hangUpCommand)
	return err
}

func (c *crier) queries() (n int, err error) {
	if _, err := io.WriteString(c.stdin, countCommand); err != nil {
		return 0, err
	}
	_, err = fmt.Fscanln(c.stdout, &n)
	return n, err
}

// A cryingServer is the crier in its own process.
type cryingServer struct {
	mu       sync.Mutex              // guards the fields below
	some     sync.Cond               // somebody listens
	sessions map[*cryingSession]bool // those that listen
	queries  int                     // Query messages since the last hangUp
	rendered map[cry][]byte          // what was sent before
}

// A cryingSession is a connection. Its lock serialises writes.
type cryingSession struct {
	net.Conn
	mu sync.Mutex
}

func (s *cryingSession) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Conn.Write(b)
}

func beCrier(l net.Listener) {
	s := &cryingServer{sessions: make(map[*cryingSession]bool), rendered: make(map[cry][]byte)}
	s.some.L = &s.mu
	go s.serve(l) // ends with the process
	commands := make(chan string, 64)
	go s.obey(commands) // ends with the process, which a session that does not read cannot hold up
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		commands <- lines.Text() + "\n"
	}
}

func (s *cryingServer) obey(commands <-chan string) {
	for command := range commands {
		switch command {
		case hangUpCommand:
			s.hangUp()
		case countCommand:
			s.mu.Lock()
			fmt.Println(s.queries)
			s.mu.Unlock()
		default:
			var c cry
			if _, err := fmt.Sscanf(command, cryCommand, &c.Count, &c.Size, &c.Channels, &c.Prefix); err != nil {
				fmt.Fprintf(os.Stderr, "crier: %q: %v\n", command, err)
				os.Exit(1)
			}
			s.cry(c)
		}
	}
}

// cry sends to all that listen, or waits for the first one that does.
func (s *cryingServer) cry(c cry) {
	frames := s.render(c)
	for _, session := range s.listening() {
		_, _ = session.Write(frames) // whoever is gone will tell
	}
}

func (s *cryingServer) render(c cry) []byte {
	if frames, ok := s.rendered[c]; ok {
		return frames
	}
	names, text := channelNames(c.Prefix, c.Channels), payload(c.Size)
	var frames []byte
	for i := range c.Count {
		frames = append(frames, message('A', "\x00\x00\x00\x07"+names[i%c.Channels]+"\x00"+text+"\x00")...)
	}
	s.rendered[c] = frames
	return frames
}

func (s *cryingServer) listening() (sessions []*cryingSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.sessions) == 0 {
		s.some.Wait()
	}
	for session := range s.sessions {
		sessions = append(sessions, session)
	}
	return sessions
}

func (s *cryingServer) hangUp() {
	for _, session := range s.listening() {
		s.mu.Lock()
		s.queries = 0
		delete(s.sessions, session)
		s.mu.Unlock()
		session.Close()
	}
}

func (s *cryingServer) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.talk(&cryingSession{Conn: c}) // ends with the connection
	}
}

// talk answers a session's statements.
func (s *cryingServer) talk(c *cryingSession) {
	defer c.Close()
	defer func() {
		s.mu.Lock()
		delete(s.sessions, c)
		s.mu.Unlock()
	}()
	if greet(c) != nil {
		return
	}
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		typ, body, err := readMessage(in)
		if err != nil || typ == 'X' {
			return
		}
		if typ != 'Q' {
			continue
		}
		query := strings.TrimRight(string(body), "\x00")
		s.mu.Lock()
		s.queries++
		s.mu.Unlock()
		if _, err := io.WriteString(c, acknowledgement(query)); err != nil {
			return
		}
		if strings.HasPrefix(strings.ToUpper(query), "LISTEN") {
			s.listens(c)
		}
	}
}

func (s *cryingServer) listens(c *cryingSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[c] = true
	s.some.Broadcast()
}

// acknowledgement tells that all statements of a query are done.
func acknowledgement(query string) string {
	var answer strings.Builder
	for statement := range strings.SplitSeq(query, ";") {
		switch tag, _, _ := strings.Cut(statement, " "); {
		case strings.Contains(statement, "pg_backend_pid"):
			answer.WriteString(backendAnswer)
		case tag != "":
			answer.WriteString(message('C', strings.ToUpper(tag)+"\x00"))
		}
	}
	if answer.Len() == 0 {
		answer.WriteString(message('I', ""))
	}
	return answer.String() + message('Z', "I")
}

func readMessage(r io.Reader) (typ byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}
