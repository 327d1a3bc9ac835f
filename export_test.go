package pgnotify

// Activate has the session's socket read by a goroutine of its own, as its first
// LISTEN or wait does.
func (c *Conn) Activate() { c.s.activate() }

// Active reports whether the session's socket is read that way.
func (c *Conn) Active() bool { return c.s.wire.Active() }

// Pings returns how many Pings wait for an answer.
func (l *Listener) Pings() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pings)
}
