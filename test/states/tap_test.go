package states_test

import (
	"math/rand/v2"
	"net"
	"sync"
)

// A tap is a connection that counts the tokens that leave by it, and may return little
// at a time.
type tap struct {
	*net.TCPConn // which has a descriptor to watch
	ledger       *ledger
	most         int // bytes that a Read returns; 0: as many as there are

	mu   sync.Mutex // guards dice
	dice *rand.Rand
}

func (t *tap) Read(p []byte) (int, error) {
	if t.most > 0 {
		t.mu.Lock()
		p = p[:min(len(p), 1+t.dice.IntN(t.most))]
		t.mu.Unlock()
	}
	return t.TCPConn.Read(p)
}

func (t *tap) Write(p []byte) (int, error) {
	k := token(0)
	if len(p) > 0 && p[0] != 'd' {
		k = tokenOf(string(p[:min(len(p), 4096)]))
	}
	if k != 0 {
		t.ledger.left(k)
	}
	n, err := t.TCPConn.Write(p)
	if k != 0 && n == 0 {
		t.ledger.stayed(k)
	}
	return n, err
}

// A bareConn has no descriptor to watch.
type bareConn struct{ net.Conn }
