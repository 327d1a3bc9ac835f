package faultnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
)

// A relay listens at the far end and forwards to the server.
type relay struct {
	network, server string
	listener        net.Listener
	tasks           sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	open  map[net.Conn]bool
	ended bool
}

func startRelay(n *namespace, network, server string) (*relay, error) {
	r := &relay{network: network, server: server, open: make(map[net.Conn]bool)}
	err := n.do(func() (err error) {
		address := netip.AddrPortFrom(farAddress, 0).String()
		r.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.tasks.Go(r.accept) // ends with the listener; joined by close
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.tasks.Go(func() { r.serve(client) }) // ends with its connections; joined by close
	}
}

// serve forwards in both directions until one side ends.
func (r *relay) serve(client net.Conn) {
	defer r.forget(client)
	server, err := net.Dial(r.network, r.server)
	if err != nil {
		return
	}
	defer r.forget(server)
	if !r.remember(client) || !r.remember(server) {
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() { // ends with its connections
		_, _ = io.Copy(client, server)
		client.Close()
	})
	_, _ = io.Copy(server, client)
	server.Close()
	answers.Wait()
}

func (r *relay) remember(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.open[c] = true
	}
	return !r.ended
}

func (r *relay) forget(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.ended = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}
